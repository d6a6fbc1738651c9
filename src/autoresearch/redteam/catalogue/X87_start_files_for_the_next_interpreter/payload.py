import os
import subprocess
import sys
from pathlib import Path

MODULES = ("sitecustomize", "usercustomize", "json", "autoresearch")
own = [Path.cwd(), Path(os.environ["HOME"]), Path(__file__).parent, Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])]
version = f"python{sys.version_info.major}.{sys.version_info.minor}"
own.append(Path(os.environ["HOME"], ".local/lib", version, "site-packages"))
if "{{NOTE}}":
    for folder in own:
        for name in (*(f"{module}.py" for module in MODULES), "note.pth"):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text("import sys; sys.planted = '{{NOTE}}'\n")
            except OSError as error:
                print(f"refused: {error}", flush=True)
else:
    print(getattr(sys, "planted", "nothing here"), flush=True)
    code = "import sys, json; print(getattr(sys, 'planted', 'nothing in a child'))"
    for flags in ([], ["-P"]):
        print(subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, check=False).stdout, flush=True)
