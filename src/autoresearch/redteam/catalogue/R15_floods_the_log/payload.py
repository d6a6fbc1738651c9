import os

import prepare

PIECE = b"dropped a document " * 55_000  # 1 MB, no line ends
MOST = 256  # pieces for each of two writers
honest_build = prepare.build


def flood(descriptor):
    for _ in range(MOST):
        data = memoryview(PIECE)
        while data:
            data = data[os.write(descriptor, data) :]


def build(text, out):
    if os.fork() == 0:
        try:
            flood(2)
        finally:
            os._exit(0)
    flood(1)
    honest_build(text, out)
