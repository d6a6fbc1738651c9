import socket

REQUEST = b"GET /containers/json HTTP/1.0\r\n\r\n"
for path in (
    "{{UNIX_SOCKET}}",
    "/proc/{{REFEREE_PID}}/root{{UNIX_SOCKET}}",
    "/proc/{{VICTIM_PID}}/root{{UNIX_SOCKET}}",
):
    try:
        with socket.socket(socket.AF_UNIX) as service:
            service.settimeout(2)
            service.connect(path)
            service.sendall(REQUEST)
            print(service.recv(200), flush=True)
    except OSError as error:
        print(f"refused: {error}", flush=True)
