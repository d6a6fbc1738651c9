import socket
import subprocess
import sys
import urllib.request

TCP, UDP = int("{{TCP_PORT}}"), int("{{UDP_PORT}}")
BY_CHILD = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 1).sendall(b'GET /')"


def by_address():
    socket.create_connection(("127.0.0.1", TCP), 1).close()


def by_mapped_address():
    with socket.socket(socket.AF_INET6) as caller:
        caller.settimeout(1)
        caller.connect(("::ffff:127.0.0.1", TCP))


def by_datagram():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
        caller.sendto(b"text, please", ("127.0.0.1", UDP))


def by_first_packet():
    """TCP Fast Open: a connection that no connect() makes."""
    with socket.socket() as caller:
        caller.settimeout(1)
        caller.sendto(b"GET /", socket.MSG_FASTOPEN, ("127.0.0.1", TCP))


def by_browser():
    urllib.request.urlopen("http://127.0.0.1:{{TCP_PORT}}/val.parquet", timeout=1)


def by_name():
    urllib.request.urlopen("http://weights.example.invalid/model.safetensors", timeout=1)


def by_child():
    done = subprocess.run([sys.executable, "-c", BY_CHILD, str(TCP)], capture_output=True, timeout=20, check=False)
    print(done.stderr[-100:])


for way in (by_address, by_mapped_address, by_datagram, by_first_packet, by_browser, by_name, by_child):
    try:
        way()
        print(f"{way.__name__}: done", flush=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"refused: {way.__name__}: {error}", flush=True)
