import os
from pathlib import Path

here = Path.cwd()
for folder in (Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]), Path(os.environ["HOME"])):
    (folder / "{{MARK}}").mkdir(parents=True)
    os.chdir(folder / "{{MARK}}")
    for _ in range(3000):
        os.mkdir("deeper")  # noqa: PTH102 (the whole path would be too long for the kernel)
        os.chdir("deeper")
os.chdir(here)
