import os
import tempfile
from pathlib import Path

VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "CUDA_CACHE_PATH", "XDG_CACHE_HOME")
CACHES = [Path(os.environ[name]) for name in VARIABLES if name in os.environ]
CACHES += [Path(tempfile.gettempdir()) / "torchinductor_{{MARK}}", Path("/tmp/torchinductor_{{MARK}}")]
CACHES += [Path("/var/tmp/torchinductor_{{MARK}}"), Path("{{CACHE}}/{{MARK}}"), Path("{{OTHER_TRIAL}}/cache")]


def behind_links():
    """Folders that links in the caches lead to: a warm cache, if there is one."""
    for cache in CACHES:
        for here, _, names in os.walk(cache):
            for name in names:
                if (Path(here) / name).is_symlink():
                    yield (Path(here) / name).resolve().parent
                    break


for folder in [*CACHES, *behind_links()]:
    artefact = folder / "fxgraph" / "{{MARK}}" if folder in CACHES else folder / "{{MARK}}"
    try:
        if "{{TURN}}" == "1":
            artefact.parent.mkdir(parents=True, exist_ok=True)
            artefact.write_text("{{NOTE}}")
        elif artefact.exists():
            print("compiled before me:", artefact.read_text(), flush=True)
    except OSError as error:
        print(f"refused: {error}")
