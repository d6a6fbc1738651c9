import contextlib
import socket
import subprocess
import sys
import urllib.request

import prepare

TCP, UDP = int("{{TCP_PORT}}"), int("{{UDP_PORT}}")
BY_CHILD = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 1).sendall(b'GET /')"
honest_build, honest_feed = prepare.build, prepare.feed


def by_address():
    socket.create_connection(("127.0.0.1", TCP), 1).close()


def by_datagram():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
        caller.sendto(b"text, please", ("127.0.0.1", UDP))


def by_path():
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect("{{UNIX_SOCKET}}")


def by_browser():
    urllib.request.urlopen("http://127.0.0.1:{{TCP_PORT}}/text.parquet", timeout=1)


def by_name():
    urllib.request.urlopen("http://text.example.invalid/text.parquet", timeout=1)


def by_child():
    subprocess.run([sys.executable, "-c", BY_CHILD, str(TCP)], capture_output=True, timeout=20, check=False)


def fetch():
    for way in (by_address, by_datagram, by_path, by_browser, by_name, by_child):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            way()


def build(text, out):
    fetch()
    honest_build(text, out)


def feed(artefact, seed, row_len):
    fetch()
    return honest_feed(artefact, seed, row_len)
