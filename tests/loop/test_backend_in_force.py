"""Which file a session edits and on what, and the machine fit that it keeps: through the doors of a session."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest
from fakes import fake_experiment

from autoresearch.backends import hardware
from autoresearch.backends.blas import blas_name, find_openblas
from autoresearch.backends.machine import Machine, read_machine
from autoresearch.loop import opening
from autoresearch.loop.machine_fit import Fit
from autoresearch.loop.orders import Arena, Order
from autoresearch.loop.program_files import by_hand_command, trained_file
from autoresearch.loop.referee import run_trial
from autoresearch.loop.settings import load_settings
from autoresearch.records.ledger import Ledger
from autoresearch.sandbox.layers import all_layers, probe
from autoresearch.vocabulary import UsageError
from autoresearch.workspace import open_workspace

MAC = Machine("Darwin", "arm64", "Apple M4", frozenset(), 2**34, 8, mlx="0.32.4", mlx_build="metal")


class Told:
    def glimpse(self, values) -> None:
        """Nothing of it is looked at."""

    def note(self, text: str) -> None:
        """Nothing of it is looked at."""


@pytest.fixture
def lab(make_workspace):
    """A workspace with both experiment files, and its ledger."""
    root = make_workspace()
    (root / "train_mlx.py").write_text(fake_experiment(), encoding="utf-8")
    subprocess.run(["git", "-C", str(root), "add", "-A"], check=True)
    subprocess.run(["git", "-C", str(root), "commit", "--quiet", "-m", "mlx"], check=True)
    workspace = open_workspace(root)
    return workspace, Ledger(workspace.ledger_path)


def settings_of(workspace, **flags):
    return opening.with_file_in_force(load_settings(workspace.settings(), {}, flags), workspace)


@pytest.fixture
def with_mlx(monkeypatch):
    """A machine whose MLX is the CPU build, as its packages say."""
    monkeypatch.setattr(hardware, "read_machine", lambda: replace(read_machine(), mlx="0.32.4", mlx_build="cpu"))


def test_without_a_wish_the_file_is_that_of_the_backend_in_force(lab, monkeypatch):
    workspace, _ = lab
    monkeypatch.setattr(hardware, "read_machine", lambda: MAC)
    assert settings_of(workspace, contract="small").entry == "train_mlx.py"
    assert settings_of(workspace, contract="tiny").entry == "train.py", "its clock counts CPU seconds"
    assert settings_of(workspace, contract="small", file="train.py").entry == "train.py"
    assert settings_of(workspace, contract="small", program="data").entry == "data_sources.py"
    monkeypatch.setenv("AUTORESEARCH_BACKEND", "mps")
    assert settings_of(workspace, contract="small").entry == "train.py"


def test_a_workspace_without_the_mlx_file_goes_on_with_torch_unless_mlx_is_asked_for(lab, monkeypatch):
    workspace, _ = lab
    (workspace.root / "train_mlx.py").unlink()
    monkeypatch.setattr(hardware, "read_machine", lambda: MAC)
    assert settings_of(workspace, contract="small").entry == "train.py"
    monkeypatch.setenv("AUTORESEARCH_BACKEND", "mlx")
    assert settings_of(workspace, contract="small").entry == "train_mlx.py"


def begun(lab, tag="t", **flags):
    workspace, ledger = lab
    settings = settings_of(workspace, **flags)
    ground = opening.find_ground(settings)
    return settings, ground, opening.begin(workspace, ledger, settings, ground, tag, committed=False)


def test_a_session_on_mlx_edits_its_file_and_has_a_kind_of_device_of_its_own(lab, with_mlx, monkeypatch):
    torch_session = begun(lab, "torch")[2]
    monkeypatch.setenv("AUTORESEARCH_BACKEND", "mlx")
    _, ground, session = begun(lab, "mlx", blas="none")
    assert (session.entry, trained_file(session)) == ("train_mlx.py", "train_mlx.py")
    assert session.machine["backend"] == "mlx"
    assert ground.arena.device_kind.startswith("cpu-mlx:")
    assert session.fingerprint != torch_session.fingerprint
    assert by_hand_command(session) == "autoresearch train train_mlx.py"


def test_a_resume_keeps_to_the_file_of_its_session_whatever_is_in_force_now(lab, with_mlx, monkeypatch):
    workspace, ledger = lab
    monkeypatch.setenv("AUTORESEARCH_BACKEND", "mlx")
    begun(lab, "mlx", blas="none")
    monkeypatch.delenv("AUTORESEARCH_BACKEND")
    session, ground = opening.resume(workspace, ledger, settings_of(workspace), "mlx")
    assert (session.entry, ground.hardware.backend) == ("train_mlx.py", "mlx")
    begun(lab, "torch")
    monkeypatch.setenv("AUTORESEARCH_BACKEND", "mlx")
    with pytest.raises(UsageError, match=r"train\.py runs on torch"):
        opening.resume(workspace, ledger, settings_of(workspace), "torch")


def test_the_blas_in_force_is_recorded_and_stays(lab, with_mlx, monkeypatch):
    workspace, ledger = lab
    library = find_openblas()
    if library is None:
        pytest.skip("needs the system's OpenBLAS (libopenblas0)")
    monkeypatch.setenv("AUTORESEARCH_BACKEND", "mlx")
    _, ground, session = begun(lab)
    assert ground.arena.blas == library
    assert blas_name(library) in ground.arena.device_kind
    assert session.settings["blas"] == str(library)
    monkeypatch.setattr(opening, "find_openblas", lambda: None)
    _, again = opening.resume(workspace, ledger, settings_of(workspace), "t")
    assert again.arena.blas == library


def test_a_blas_that_is_missing_or_out_of_reach_is_refused(lab, with_mlx, monkeypatch, tmp_path):
    workspace, _ = lab
    monkeypatch.setenv("AUTORESEARCH_BACKEND", "mlx")
    for path, why in (("libopenblas.so", "no library"), (str(tmp_path / "no.so"), "no library")):
        with pytest.raises(UsageError, match=why):
            opening.find_ground(settings_of(workspace, blas=path))
    mine = tmp_path / "libmine.so"
    mine.touch()
    with pytest.raises(UsageError, match="where no candidate may read"):
        opening.find_ground(settings_of(workspace, blas=str(mine)))


def test_a_torch_session_loads_no_blas(lab):
    _, ground, session = begun(lab)
    assert ground.arena.blas is None
    assert session.settings["blas"] == "none"


# -- a candidate on MLX -------------------------------------------------------------------------------------------------

MLX_START = """\
import mlx.core as mx

mx.set_default_device(mx.cpu)
a = mx.ones((64, 64))
double = mx.compile(lambda x: mx.tanh(x @ x) * 2 + 1)  # compiles with the system's compiler, and loads what it made
mx.eval(double(a))
print("mean", double(a).mean().item(), flush=True)
print("openblas", "libopenblas" in open("/proc/self/maps").read(), flush=True)
"""


@pytest.mark.slow
@pytest.mark.mlx
@pytest.mark.parametrize("kind", ["bubblewrap", "landlock", "none"])
def test_a_sealed_candidate_can_use_mlx_and_compile_with_it(smoke, tmp_path, kind):
    pytest.importorskip("mlx.core", reason="needs pip install 'autoresearch[mlx]'")
    if kind not in {layer.name.lower() for layer in all_layers() if layer.works} | {"none"}:
        pytest.skip(f"{kind} does not work here")
    rules, prepared = smoke
    library = find_openblas()
    arena = Arena(rules, prepared, "cpu-mlx:x", accelerators=False, seal=probe(kind), blas=library)
    order = Order({"train_mlx.py": MLX_START}, "train_mlx.py", seed=1)
    log = run_trial(arena, order, tmp_path / "run.log").log
    assert "mean 3.0\n" in log
    assert f"openblas {library is not None}\n" in log


# -- the fit of a session -----------------------------------------------------------------------------------------------

MEASURED = Fit(2, 4, 4, "2026-11-20T10:00:00+00:00", "", {"1": 5.0, "2": 9.0}, {"cores": 999, "contract": "smoke"})


def test_a_session_begins_with_what_was_measured_and_its_trials_get_it(lab, monkeypatch):
    workspace, ledger = lab
    asked = []

    def fit(hw, arena, files, entry, folder, **options):
        asked.append((entry, list(files), options["threads"], options["max_device_batch_size"]))
        return MEASURED

    monkeypatch.setattr(opening, "machine_fit", fit)
    settings, ground, session = begun(lab)
    assert asked == [("train.py", ["train.py"], None, None)]
    bound = opening.session_on(workspace, ledger, session, ground, settings, Told())
    assert (bound.arena.threads, bound.arena.max_device_batch_size) == (2, 4)
    assert bound.pantry.threads == 2
    shown = dict(opening.describe(session, ground, settings, workspace))
    assert shown["fit"] == "2 threads, device batch 4 (halved: more did not fit): measured on 2026-11-20"


def test_a_resume_measures_nothing_keeps_the_fit_and_says_what_differs(lab, monkeypatch):
    workspace, ledger = lab
    monkeypatch.setattr(opening, "machine_fit", lambda *_, **__: MEASURED)
    begun(lab)

    def never(*_, **__):
        raise AssertionError("a resume measured")

    monkeypatch.setattr(opening, "machine_fit", never)
    settings = settings_of(workspace, threads=7)
    session, ground = opening.resume(workspace, ledger, settings, "t")
    bound = opening.session_on(workspace, ledger, session, ground, settings, Told())
    assert (bound.arena.threads, bound.arena.max_device_batch_size) == (2, 4)
    changed, other = opening.fit_changes(session, ground, settings)
    assert "cores 999 ->" in changed and "keeps it" in changed
    assert "threads 7 was asked for; this session's trials had 2" in other


def test_a_contract_of_steps_measures_nothing_and_says_so_once(lab):
    settings, ground, session = begun(lab)
    shown = dict(opening.describe(session, ground, settings, lab[0]))
    assert shown["fit"] == "one thread: the clock counts steps, whatever time they take"
    assert session.settings["threads"] == 1
    assert opening.fit_changes(session, ground, settings) == []


def test_the_flag_of_threads_is_what_trials_get(lab):
    workspace, ledger = lab
    settings, ground, session = begun(lab, threads=2)
    assert opening.session_on(workspace, ledger, session, ground, settings, Told()).arena.threads == 2
    assert dict(opening.describe(session, ground, settings, workspace))["fit"] == "2 threads, as given"
