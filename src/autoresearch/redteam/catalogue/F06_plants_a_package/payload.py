from pathlib import Path

# Empty files: they do nothing even where they can be written. A .pth file is read at every start of the interpreter.
PLACES = ["{{SITE_PACKAGES}}/{{MARK}}.pth", "{{SITE_PACKAGES}}/{{MARK}}/__init__.py", "{{PACKAGE}}/{{MARK}}.py"]
PLACES += ["{{CORPUS}}/{{MARK}}.py", "{{REPOSITORY}}/uv.lock"]
for place in map(Path, PLACES):
    try:
        place.parent.mkdir(exist_ok=True)
        place.touch()
        print(f"made {place}", flush=True)
    except OSError as error:
        print(f"refused: {error}", flush=True)
