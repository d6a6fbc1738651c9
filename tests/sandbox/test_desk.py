"""A coding agent's desk, with a shell as the agent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from autoresearch.sandbox.desk import Desk, bubblewrap_for_desks, program_places

sealed = pytest.mark.skipif(bubblewrap_for_desks() is None, reason="no bubblewrap here")


@pytest.fixture
def at_desk(tmp_path):
    """A function that runs a shell script at a desk and returns what it printed."""
    folder, home = tmp_path / "folder", tmp_path / "home"
    for made in (folder, home):
        made.mkdir()

    def run(script: str, **more) -> str:
        desk = Desk(folder, home, **more)
        bwrap = bubblewrap_for_desks()
        assert bwrap is not None
        command = desk.command(bwrap, ["/bin/sh", "-c", script])
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        return done.stdout + done.stderr

    run.folder, run.home = folder, home  # type: ignore[attr-defined]
    return run


@sealed
def test_the_folder_is_writable_and_what_is_fixed_in_it_is_not(at_desk):
    fixed = at_desk.folder / "TASK.md"
    fixed.write_text("task")
    said = at_desk("echo new > file; echo new > TASK.md; rm -f TASK.md; mv TASK.md other", fixed=(fixed,))
    assert (at_desk.folder / "file").read_text() == "new\n"
    assert fixed.read_text() == "task" and "Read-only" in said


@sealed
def test_an_agents_own_places_are_writable_but_for_what_a_later_session_would_run(at_desk):
    own = at_desk.home / ".claude"
    (own / "projects").mkdir(parents=True)
    (own / "projects" / "talk").write_text("of another day")
    (own / "settings.json").write_text("{}")
    (at_desk.home / ".netrc").write_text("secret")
    said = at_desk(
        f"cd {at_desk.home}; ls -A; ls .claude/projects; echo new > .claude/login; echo x > .claude/settings.json; echo y > gone",
        own=(own,),
        kept=(own / "settings.json",),
        emptied=(own / "projects",),
    )
    assert ".netrc" not in said and "talk" not in said
    assert (own / "login").read_text() == "new\n"
    assert (own / "settings.json").read_text() == "{}" and "Read-only" in said
    assert not (at_desk.home / "gone").exists(), "what it writes elsewhere in the home is gone with it"


@sealed
def test_a_hidden_folder_stays_hidden_inside_an_installation_that_shows(at_desk):
    prefix = at_desk.home / "env"
    for name in ("bin", "lib/text"):
        (prefix / name).mkdir(parents=True)
        (prefix / name / "file").write_text("x")
    said = at_desk(f"ls {prefix}/bin; ls {prefix}/lib/text", programs=(prefix,), hidden=(prefix / "lib" / "text",))
    assert said == "file\n"


@sealed
def test_the_network_is_there_and_other_processes_are_not(at_desk):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted: list[bytes] = []

        def accept() -> None:
            with listener.accept()[0] as found:
                accepted.append(found.recv(5))

        thread = threading.Thread(target=accept)
        thread.start()
        script = f"import socket; socket.create_connection(('127.0.0.1', {listener.getsockname()[1]})).send(b'hello')"
        said = at_desk(
            f'{sys.executable} -c "{script}"; kill -0 {os.getpid()} && echo reached',
            programs=(Path(sys.prefix), Path(sys.base_prefix)),
        )
        if not said.strip().endswith("No such process") and "hello" not in str(accepted):
            socket.create_connection(listener.getsockname()[:2]).close()  # lets the thread end before the test fails
        thread.join()
    assert accepted == [b"hello"], said
    assert "reached" not in said


def test_an_installation_in_the_home_shows_without_the_home(tmp_path):
    home = tmp_path / "home"
    for name in ("env/bin", ".local/bin", ".local/share/keyrings", "bin"):
        (home / name).mkdir(parents=True)
    variable = os.pathsep.join(str(home / name) for name in ("env/bin", ".local/bin", "bin", "missing"))
    found = program_places(["agent"], path_variable=variable, guarded=(home,))
    assert set(found) == {home / "env", home / ".local/bin", home / "bin"}


def test_a_script_that_is_named_shows_with_its_folder_and_never_with_the_home(tmp_path):
    home = tmp_path / "home"
    (home / "agents").mkdir(parents=True)
    for name in ("agents/mine.py", "lone.py"):
        (home / name).write_text("")
    words = ["/bin/sh", str(home / "agents/mine.py"), str(home / "lone.py"), "--flag"]
    found = program_places(words, path_variable="", guarded=(home,))
    assert home / "agents" in found and home / "lone.py" in found and home not in found
