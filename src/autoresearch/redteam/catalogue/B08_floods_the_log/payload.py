import os

PIECE = b"loss: 0.000001 " * 65_536  # 1 MB, no line ends
MOST = 256  # pieces for each of two writers


def flood(descriptor):
    for _ in range(MOST):
        data = memoryview(PIECE)
        while data:
            data = data[os.write(descriptor, data) :]


if os.fork() == 0:
    try:
        flood(2)
    finally:
        os._exit(0)
flood(1)
