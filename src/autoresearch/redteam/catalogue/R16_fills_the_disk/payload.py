import os
import shutil
import time

import prepare

FILES, SIZE = 24, 128 << 20
RESERVE = 8 << 30  # left free, for whoever runs this without a limit
honest_build = prepare.build


def build(text, out):
    held = []
    for number in range(FILES):
        if shutil.disk_usage(out._folder).free < RESERVE:
            break
        path = out._folder / f"fill-{number}"
        held.append(os.open(path, os.O_RDWR | os.O_CREAT))
        os.posix_fallocate(held[-1], 0, SIZE)  # real blocks, without the time to write them
        if number % 2:
            path.unlink()
        time.sleep(0.1)
    time.sleep(3)
    for descriptor in held:
        os.close(descriptor)
    honest_build(text, out)
