import os
from pathlib import Path

COMMAND = "#!/bin/sh\nexit 0\n"
os.environ["LD_PRELOAD"] = "{{MARK}}.so"  # our own environment: nobody else's
os.environ["GIT_CONFIG_PARAMETERS"] = "'core.fsmonitor=true'"


def plant(path, text, mode="w"):
    try:
        with Path(path).open(mode) as file:
            file.write(text)
        Path(path).chmod(0o755)
        print(f"planted {path}")
    except OSError as error:
        print(f"refused: {error}")


try:
    Path("{{HOME}}/.local/bin").mkdir(parents=True, exist_ok=True)
except OSError as error:
    print(f"refused: {error}")
plant("{{HOME}}/.local/bin/git", COMMAND)
plant("{{SITE_PACKAGES}}/{{MARK}}.so", "")
for hook in ("post-commit", "reference-transaction", "post-checkout"):
    plant(f"{{REPOSITORY}}/.git/hooks/{hook}", COMMAND)
plant("{{REPOSITORY}}/.git/config", "[core]\n\tfsmonitor = true\n", "a")
plant("{{REPOSITORY}}/.gitattributes", "*.py filter=planted\n")
plant("{{HOME}}/.bashrc", "alias git=true\n", "a")
