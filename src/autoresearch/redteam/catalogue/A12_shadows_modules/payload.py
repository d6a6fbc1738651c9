import os
import sys
from pathlib import Path

NOTE = "{{NOTE}}"
SHADOW = f"print('shadowed: {NOTE}', flush=True)\nraise ImportError('a shadow')\n"
BESIDE = ["json.py", "safetensors.py", "struct.py", "sitecustomize.py", "usercustomize.py"]


def write(path, text):
    try:
        Path(path).write_text(text)
    except OSError as error:
        print(f"refused: {error}")


def sow():
    """Shadows in folders that are this trial's or a decoy; empty marked files in installed ones."""
    for folder in [Path(sys.argv[0]).parent, Path.cwd(), os.environ["HOME"], "{{REPOSITORY}}", "{{OTHER_TRIAL}}/trial"]:
        for name in BESIDE:
            if not (Path(folder) / name).exists():
                write(Path(folder) / name, SHADOW)
    for folder in ("{{SITE_PACKAGES}}", "{{PACKAGE}}"):
        write(Path(folder) / "{{MARK}}.pth", "")
        write(Path(folder) / "{{MARK}}.py", "")


if NOTE:
    sow()
print("sitecustomize" in sys.modules and getattr(sys.modules["sitecustomize"], "__file__", ""))
