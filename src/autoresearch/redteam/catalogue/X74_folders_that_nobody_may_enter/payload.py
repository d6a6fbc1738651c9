import os
from pathlib import Path

for root in (Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]), Path(os.environ["HOME"])):
    inner = root / "{{MARK}}" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").touch()
    for folder in (inner, inner.parent, root):
        folder.chmod(0)
