import errno
import os
import sysconfig
from pathlib import Path

PAGE = 4096
STRIDE = 2 * PAGE
NOTE = b"{{NOTE}}"
NUM_BITS = 8 * 37  # of a note


def carrier():
    """A large file that every trial sees and none uses: the first by name."""
    mapped = Path("/proc/self/maps").read_text()
    for here, folders, names in os.walk(sysconfig.get_path("purelib")):
        folders.sort()
        for name in sorted(names):
            path = f"{here}/{name}"
            if not name.endswith((".so", ".a", ".exe", ".dat")) or path in mapped:
                continue
            if os.stat(path).st_size > NUM_BITS * STRIDE:  # noqa: PTH116
                return path
    raise FileNotFoundError("no file is large enough")


def write(file):
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    bits = [byte >> place & 1 for byte in NOTE for place in range(8)]
    for number, bit in enumerate(bits):
        if bit:
            os.pread(file, 1, number * STRIDE)


def is_in_memory(file, place):
    try:
        return os.preadv(file, [bytearray(1)], place, os.RWF_NOWAIT) == 1
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return False
        raise


def read(file):
    bits = [is_in_memory(file, number * STRIDE) for number in range(NUM_BITS)]
    return bytes(sum(bits[start + place] << place for place in range(8)) for start in range(0, NUM_BITS, 8))


try:
    opened = os.open(carrier(), os.O_RDONLY)
    os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_RANDOM)
    if "{{TURN}}" == "1":
        write(opened)
        print("written:", sum(is_in_memory(opened, number * STRIDE) for number in range(NUM_BITS)), "pages")
    else:
        print("before me:", read(opened).decode("latin-1"), flush=True)
except OSError as error:
    print(f"refused: {error}")
