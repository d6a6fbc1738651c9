"""A measuring process: runs one experiment file, as it is, and writes what it measured. Started by `bench.children` only.

The file is run because a person asked for it, unsealed, as `python train.py` is. This module stands beside it in one process,
so what is measured here is for looking at; nothing is decided by it and no record of a session is made of it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import functools
import hashlib
import os
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoresearch.backends.blas import load_blas
from autoresearch.backends.runtime import runtime_in_use
from autoresearch.bench.experiment_file import SETTINGS
from autoresearch.bench.memory import peak_memory, process_peak_mb
from autoresearch.bench.order import Mode, Order, Task
from autoresearch.bench.phases import build_phases, with_mode
from autoresearch.bench.sampling import LEAST_SAMPLES, Sampling
from autoresearch.bench.served import Enough, StopwatchLink, Text, names_for, text_for
from autoresearch.bench.timing import num_eval_batches, time_evaluation, time_parts
from autoresearch.contract.rules import Clock, Rules, rules_for
from autoresearch.contract.standalone import standalone_names
from autoresearch.files import write_json
from autoresearch.vocabulary import AutoresearchError, UsageError

ORDER_NAME = "order.json"
RESULT_NAME = "result.json"
REFUSED = "refused"  # key of a result: why nothing was measured, in our words
EXPERIMENT = "experiment"  # the module's name where its main is not to run by itself
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_ENDLESS = 1 << 31


def _cpu_seconds() -> float:
    """CPU seconds of this process, to the nanosecond, and of the children it has waited for, to the hundredth."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


@dataclass(frozen=True)
class Clocks:
    """Seconds of a steady clock, of this process's CPU time, and since the epoch."""

    steady: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = _cpu_seconds
    epoch: Callable[[], float] = time.time

    def counting(self, rules: Rules) -> Callable[[], float]:
        """What steps are timed by: CPU seconds where the contract's budget is in them, as its tokens per second are.

        A shared machine then does not enter the figures, and two threads that halve the wall time gain nothing.
        """
        return self.cpu if rules.clock is Clock.CPU else self.steady


def measure(order: Order, clocks: Clocks | None = None) -> dict[str, Any]:
    """Run the file and measure what is ordered, on the contract that the environment names. JSON values.

    Raises:
        UsageError: the file asks for what the contract does not have, ends before enough steps, or was changed meanwhile.
        Whatever the file raises flies through.
    """
    clocks = clocks or Clocks()
    began = clocks.steady()
    spent = clocks.epoch() - order.spawned_at
    constants = {name: value for name, value in standalone_names().items() if name.isupper()}
    rules = rules_for(constants["PRESET"])
    text = text_for(rules, constants["SEED"])
    path = Path(order.file)
    source = path.read_bytes()
    if hashlib.sha256(source).hexdigest() != order.sha256:
        raise UsageError(f"{path.name} was changed while it was measured", hint="autoresearch bench   (once more)")
    code = compile(source, str(path), "exec", dont_inherit=True)
    if order.task is Task.PARTS:
        return _measure_parts(order, code, rules, text, constants, clocks)
    return _measure_whole(order, code, rules, text, constants, clocks, spent - began)


def _measure_whole(
    order: Order,
    code: types.CodeType,
    rules: Rules,
    text: Text,
    constants: dict[str, Any],
    clocks: Clocks,
    since_spawn: float,
) -> dict[str, Any]:
    """The file's own loop. since_spawn: what to add to a steady time for the seconds since the process was started."""
    sampling = Sampling(order.steps, order.patience)
    module = types.ModuleType(EXPERIMENT if order.is_named else "__main__")
    link = StopwatchLink(
        rules,
        text.source,
        sampling,
        clocks.counting(rules),
        clocks.steady,
        lambda rows, seq_len: micro_steps_in(vars(module), rows, seq_len) or 1,
    )
    compiled: list[bool] = []
    with _in_place(module, Path(order.file), names_for(link, text, constants)):
        try:
            exec(code, vars(module))
            if order.is_named:
                _switch_compiler(module, order.mode, compiled)
                module.main()
        except Enough:
            pass
        except KeyboardInterrupt:
            if not sampling.is_enough:  # else it is ours: a thread of the file's asked for the last batch
                raise
        except SystemExit as end:
            if end.code not in (None, 0):
                raise
        if len(sampling.samples) < LEAST_SAMPLES or link.first_asked is None:
            raise UsageError(
                f"{Path(order.file).name} ended after {len(sampling.seconds)} steps, of which {len(sampling.samples)} came after"
                f" the warm-up, and {LEAST_SAMPLES} are needed",
                hint="autoresearch bench --contract P   (a contract whose budget holds more of its steps)",
            )
        library, device = library_and_device()
        memory = peak_memory(library, device)
    known = micro_steps_in(vars(module), link.rows, link.seq_len)
    return {
        "sha256": order.sha256,
        "text": text.kind,
        "dataset": text.dataset,
        "library": library,
        "device": device,
        "compiled": compiled[-1] if compiled else None,
        "rows": link.rows,
        "seq_len": link.seq_len,
        "micro_steps": link.num_micro_steps,
        "micro_steps_known": known is not None,
        "startup_seconds": link.first_asked + since_spawn,
        "warm_up_steps": sampling.num_warm_up,
        "step_seconds": sampling.samples,
        "wall_seconds": sampling.wall_samples,
        "memory": asdict(memory),
        "process_peak_mb": process_peak_mb(),
    }


def _measure_parts(
    order: Order, code: types.CodeType, rules: Rules, text: Text, constants: dict[str, Any], clocks: Clocks
) -> dict[str, Any]:
    module = types.ModuleType(EXPERIMENT)
    endless = Sampling(_ENDLESS, float("inf"))
    link = StopwatchLink(
        rules, text.source, endless, clocks.counting(rules), clocks.steady, lambda _rows, _seq_len: order.micro_steps
    )
    names = names_for(link, text, constants)
    began = clocks.steady()
    with _in_place(module, Path(order.file), names):
        exec(code, vars(module))
        imported = clocks.steady()
        compiled: list[bool] = []
        _switch_compiler(module, order.mode, compiled)
        library, device = library_and_device()
        runtime = runtime_in_use()
        _seed(library, constants["SEED"])
        vocab_size = text.tokenizer.get_vocab_size()
        where = getattr(runtime, "device", device)
        phases, model, _ = build_phases(vars(module), library, runtime, vocab_size, where, order.micro_steps)
        phases.wait()
        built = clocks.steady()
        loader = names["make_dataloader"](text.tokenizer, order.rows, order.seq_len, "train")
        sampling = Sampling(order.steps, order.patience)
        clock = clocks.counting(rules)
        steps = time_parts(phases, loader, order.micro_steps, sampling, clock, clocks.steady)
        phases.release()
        evaluation = time_evaluation(model, runtime, text.eval_rows, rules, order.rows, clock)
    return {
        "sha256": order.sha256,
        "compiled": compiled[-1],
        "parts": {name: [step[name] for step in steps[sampling.num_warm_up :]] for name in steps[0]},
        "import_seconds": imported - began,
        "build_seconds": built - imported,
        "wall_seconds": sampling.wall,
        "warm_up_steps": sampling.num_warm_up,
        "num_params": _number(model, "num_parameters"),
        "flops_per_token": _number(model, "flops_per_token"),
        "eval_batch_seconds": evaluation,
        "num_eval_batches": num_eval_batches(rules, order.rows),
    }


def micro_steps_in(names: Mapping[str, Any], rows: int, seq_len: int) -> int | None:
    """Batches that make an optimizer step by the file's TOTAL_BATCH_SIZE; None where it has none that they divide."""
    total = names.get("TOTAL_BATCH_SIZE")
    tokens = rows * seq_len
    if not isinstance(total, int) or total < tokens or total % tokens:
        return None
    return total // tokens


def library_and_device() -> tuple[str, str]:
    """The array library that the file has imported, and its device: ("torch", "cuda"), ("mlx", "gpu"), ("numpy", "cpu")."""
    if "torch" in sys.modules:
        return "torch", str(runtime_in_use().device.type)  # type: ignore[attr-defined]
    if "mlx.core" in sys.modules:
        return "mlx", str(sys.modules["mlx.core"].default_device().type).rpartition(".")[2]
    return "numpy", "cpu"


def _seed(library: str, seed: int) -> None:
    if library == "torch":
        sys.modules["torch"].manual_seed(seed)
    elif library == "mlx":
        sys.modules["mlx.core"].random.seed(seed)


def _number(model: Any, name: str) -> float | None:
    """What the model says of itself: a number, or a table of numbers with their total; None where it does not."""
    asked = getattr(model, name, None)
    value = asked() if callable(asked) else None
    if isinstance(value, Mapping):
        value = value.get("total")
    return float(value) if isinstance(value, int | float) else None


def _switch_compiler(module: types.ModuleType, mode: Mode, compiled: list[bool]) -> None:
    """Let the file's settings_for answer as the mode says, and note its last answer.

    MLX compiles whatever is marked for it unless it is told not to, so there the library is told as well.
    """
    name = next(name for name in SETTINGS if name in vars(module))
    switched = with_mode(vars(module)[name], mode)

    @functools.wraps(switched)
    def settings_for(*arguments: Any, **more: Any) -> Any:
        found = switched(*arguments, **more)
        if "mlx.core" in sys.modules and mode is not Mode.OWN:
            mx: Any = sys.modules["mlx.core"]
            (mx.enable_compile if found[-1] else mx.disable_compile)()
        compiled.append(found[-1])
        return found

    vars(module)[name] = settings_for


@contextlib.contextmanager
def _in_place(module: types.ModuleType, path: Path, names: Mapping[str, Any]) -> Iterator[None]:
    """The module where Python looks for it, `prepare` with these names, and the file's folder last on the path."""
    prepare = types.ModuleType("prepare", "The names of a trial, and a stopwatch.")
    vars(prepare).update(names)
    vars(module)["__file__"] = str(path)
    before = {name: sys.modules.get(name) for name in ("prepare", module.__name__)}
    arguments, folders = sys.argv, list(sys.path)
    sys.modules.update({"prepare": prepare, module.__name__: module})
    sys.argv = [str(path)]
    sys.path.append(str(path.parent))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = arguments, folders
        for name, old in before.items():
            if old is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = old


def _die_with(parent: int) -> None:
    """Linux ends us when whoever ordered this is gone; elsewhere the time limit does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            sys.exit("whoever ordered this is gone")


def main(arguments: list[str] | None = None) -> None:
    """Carry out the order in a folder, and leave the result there."""
    parser = argparse.ArgumentParser(prog="autoresearch-bench")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    order = Order.from_json((folder / ORDER_NAME).read_text(encoding="utf-8"))
    _die_with(order.parent)
    if order.blas:
        load_blas(Path(order.blas))
    faulthandler.dump_traceback_later(order.limit_seconds, exit=True)  # the log then ends with where it was
    try:
        result = measure(order)
    except AutoresearchError as error:
        result = {REFUSED: error.message, "hint": error.hint}
    write_json(folder / RESULT_NAME, result)
    # no waiting for a file's own threads and compile workers: what there was to say is written
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
