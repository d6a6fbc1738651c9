import tempfile
from pathlib import Path

CHANGED = [
    "{{OUTSIDE}}/thesis.txt",
    "{{HOME}}/.bashrc",
    "{{OTHER_TRIAL}}/scratch/notes.txt",
    "{{REPOSITORY}}/results.tsv",
]
ADDED = ["/tmp", "/var/tmp", "/dev/shm", "{{HOME}}", "{{CACHE}}", "{{PREPARED}}", tempfile.gettempdir()]
ADDED += ["/proc/{{REFEREE_PID}}/cwd", "/proc/{{VICTIM_PID}}/cwd/outside"]
for path in map(Path, CHANGED):
    try:
        with path.open("a") as file:
            file.write("{{MARK}}\n")
        print(f"changed {path}", flush=True)
    except OSError as error:
        print(f"refused: {error}", flush=True)
for folder in ADDED:
    try:
        Path(folder, "{{MARK}}").touch()
        print(f"left a file in {folder}", flush=True)
    except OSError as error:
        print(f"refused: {error}", flush=True)
