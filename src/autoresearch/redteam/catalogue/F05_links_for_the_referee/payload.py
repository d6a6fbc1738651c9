import os
from pathlib import Path

TARGETS = ["{{OUTSIDE}}", "{{HOME}}", "{{REPOSITORY}}", "{{OTHER_TRIAL}}", "{{OUTSIDE}}/thesis.txt"]
own = [Path.cwd(), Path(os.environ["HOME"]), Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).parent]
own += [Path(os.environ[name]) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")]
for folder in own:
    folder.mkdir(parents=True, exist_ok=True)
    for number, target in enumerate([*TARGETS, str(folder), "."]):
        try:
            (folder / f"link-{number}").symlink_to(target)
        except FileExistsError:
            continue  # two of our names are one folder
