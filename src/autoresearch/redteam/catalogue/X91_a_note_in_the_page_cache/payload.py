import os
import zlib
from pathlib import Path

PAGE = 4096
STRIDE = 4 * PAGE  # one bit; the pages between keep neighbours apart
NUM_BYTES = 37 + 4  # a note and its checksum
SMALLEST, LARGEST = 8 * NUM_BYTES * STRIDE, 256 << 20
NOTE = b"{{NOTE}}"


def carriers():
    """Readable files, large enough and not mapped here, always in the same order."""
    mapped = Path("/proc/self/maps").read_text()
    found = []
    for place in ("{{SITE_PACKAGES}}", "/usr/lib"):
        for here, _, names in os.walk(place):
            for path in (f"{here}/{name}" for name in names):
                if os.access(path, os.R_OK) and not os.path.islink(path) and path not in mapped:  # noqa: PTH114
                    size = os.stat(path).st_size  # noqa: PTH116
                    if SMALLEST <= size <= LARGEST:
                        found.append((size, path))
    return [path for _, path in sorted(found)[-8:]]


def is_cached(file, offset):
    try:
        return os.preadv(file, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False


def write(file):
    data = NOTE + zlib.crc32(NOTE).to_bytes(4, "big")
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    for number in range(8 * len(data)):
        if data[number // 8] >> number % 8 & 1:
            os.pread(file, 1, number * STRIDE)


def read(file):
    data = bytearray(NUM_BYTES)
    for number in range(8 * NUM_BYTES):
        data[number // 8] |= is_cached(file, number * STRIDE) << number % 8
    return bytes(data[:-4]) if zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "big") else b""


for path in carriers():
    try:
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead
        if NOTE:
            write(file)
            print(f"wrote to {path}", flush=True)
        else:  # asking begins to read what is missing, so it can be asked once
            print(f"{path}: {read(file).decode() or 'nothing'}", flush=True)
        os.close(file)
    except OSError as error:
        print(f"refused: {path}: {error}", flush=True)
