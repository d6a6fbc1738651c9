"""What the examination costs beside a plain evaluation, and how far honest models deviate from themselves.

    python benchmarks/examination.py [--rounds 7] [--train-seconds 10]
    python benchmarks/examination.py --tolerance

The first form trains this checkout's train.py on `tiny` for a few seconds and then, in one run and interleaved, evaluates
the same rows with the same weights in five ways: plainly in this process; screened, as a sealed trial does it; and
screened and then deeply, with the fresh process started when screening begins, as a session does it (`deep`), so early
that its imports are behind it (`deep_ready`), or only when it is needed (`deep_cold`). Seconds on the wall, and CPU
seconds of this process and the candidates together: medians of the rounds, and medians of their ratios to the plain
evaluation of the same round. `deep_ready` counts no imports: the process would have served the next trial as well.

The second form prints, for each device, dtype and mode, the largest difference in nats between the answer to a prefix and
the claim at the same place: asked of the model that claimed, as screening does, and of one rebuilt from its weights by
`load_model`, as deep does. The tolerances in contract/examination.py rest on this table.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import importlib
import io
import math
import shutil
import statistics
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lab import ROOT, report

from autoresearch.backends.hardware import detect, device_kind
from autoresearch.backends.runtime import TorchRuntime
from autoresearch.contract.bpb import bits_per_byte, byte_bearing, target_bytes
from autoresearch.contract.channel import answers_of, encode_ask
from autoresearch.contract.corpora import cache_root
from autoresearch.contract.examination import AskClaim, AskPrefix, Examined, examine, tolerance_for
from autoresearch.contract.prepared import Prepared, open_prepared
from autoresearch.contract.rules import rules_for
from autoresearch.contract.stream import RowStream
from autoresearch.loop.candidate import Candidate
from autoresearch.loop.conversation import Conversation
from autoresearch.loop.interview import Interview
from autoresearch.loop.orders import MAX_WEIGHTS_BYTES, Arena, DeepWish, Order, answer_in, constants_of, system_random
from autoresearch.loop.spare import start_candidate
from autoresearch.vocabulary import Slice

PRELOAD = ("numpy", "torch")
# What the screened candidate runs instead of training: the model from its weights, examined each time a batch arrives.
BENCH_MAIN = """
if __name__ == "__main__":
    import base64
    import pathlib

    from autoresearch.backends.runtime import runtime_in_use

    packed = pathlib.Path(__file__).with_name("weights.txt").read_text()
    model = load_model(runtime_in_use().unpack(base64.b64decode(packed)))
    tokenizer = Tokenizer.from_directory()
    for _ in make_dataloader(tokenizer, 1, 1, "train"):
        evaluate_bpb(model, tokenizer, DEVICE_BATCH_SIZE)
"""


class Bench:
    """`tiny`, and a GPT of train.py that was trained on it for a while."""

    def __init__(self, train_seconds: float) -> None:
        self.rules = rules_for("tiny")
        self.prepared: Prepared = open_prepared(self.rules, self.rules.dataset, cache_root())
        self.rows = self.prepared.rows(Slice.SEARCH)
        self.token_bytes = self.prepared.tokenizer.token_bytes
        self.train = self._surface()
        self.batch_size = int(self.train.DEVICE_BATCH_SIZE)
        torch.set_num_threads(1)
        self.weights = self._trained(train_seconds)

    def _surface(self) -> Any:
        """This checkout's train.py as a module, with the constants of the contract."""
        names = types.ModuleType("prepare")
        constants = {"MAX_SEQ_LEN": self.rules.max_seq_len, "TIME_BUDGET": 0.0, "SEED": 1, "PRESET": "tiny"}
        vars(names).update(constants, Tokenizer=None, make_dataloader=None, evaluate_bpb=None)
        sys.modules["prepare"] = names
        sys.path.insert(0, str(ROOT))
        return importlib.import_module("train")

    def _trained(self, seconds: float) -> bytes:
        """Weights as `evaluate_bpb` hands them over, after so many seconds of train.py's own loop on the CPU."""
        torch.manual_seed(1)
        config = self.train.config_from_hyperparameters(self.prepared.tokenizer.get_vocab_size())
        model = self.train.build_model(config, torch.device("cpu"))
        with contextlib.redirect_stdout(io.StringIO()):
            self.train.train(model, self.train.build_optimizer(model), _Batches(self, seconds), 1)
        return TorchRuntime().pack(model.state_dict())

    def model(self, device: torch.device, dtype: Any = None) -> Any:
        """The trained model on a device, eager."""
        config = self.train.config_from_hyperparameters(self.prepared.tokenizer.get_vocab_size())
        model = self.train.build_model(config, device, dtype)
        model.load_state_dict(TorchRuntime().unpack(self.weights))
        return model

    def plain(self, model: Any) -> float:
        """bits per byte as any training script works it out: one pass over the rows, no questions."""
        nats = 0.0
        counts = torch.from_numpy(np.array(self.token_bytes)) > 0
        with torch.no_grad():
            for start in range(0, len(self.rows), self.batch_size):
                batch = torch.from_numpy(self.rows[start : start + self.batch_size].astype(np.int64))
                inputs, targets = batch[:, :-1].contiguous(), batch[:, 1:].flatten()
                loss = torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets, reduction="none")
                nats += float((loss * counts[targets]).sum())
        return bits_per_byte(nats, target_bytes(self.rows, self.token_bytes))


class _Batches:
    """Training batches for so many seconds, with what train.py reads of a loader."""

    training_seconds = 0.0

    def __init__(self, bench: Bench, seconds: float) -> None:
        self.progress = 0.0
        self._seconds = seconds
        bos = bench.prepared.tokenizer.get_bos_token_id()
        self._batch_size = bench.batch_size
        self._rows = RowStream(bench.prepared.shards, seed=1, row_len=bench.rules.max_seq_len + 1, bos=bos)

    def __iter__(self) -> Iterator[tuple[Any, Any, int]]:
        began = time.perf_counter()
        while self.progress < 1:
            rows = torch.from_numpy(self._rows.take(self._batch_size).astype(np.int64))
            yield rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), 1
            self.progress = (time.perf_counter() - began) / self._seconds


# ------------------------------------------------------------------------------------------------------------------ cost


class Screening:
    """The referee's side of screening, of one candidate that is examined again and again."""

    def __init__(self, bench: Bench, arena: Arena, folder: Path) -> None:
        self._bench = bench
        source = (ROOT / "train.py").read_text(encoding="utf-8")
        body, _, _ = source.partition('\nif __name__ == "__main__":')
        files = {"train.py": body + BENCH_MAIN, "weights.txt": base64.b64encode(bench.weights).decode()}
        log_path = folder / "screening.log"
        self.candidate = start_candidate(arena, PRELOAD)
        self.candidate.begin(files, "train.py", log_path)
        self._talk = Conversation(self.candidate, log_path, arena.limits, threading.Event())
        self._receive("hello")
        constants = constants_of(arena.rules, Order({}, "train.py", seed=1))
        self._talk.send({"op": "constants", "constants": constants, "task": "train"}, arena.tokenizer_table)
        self._receive("open")
        self._receive("next")
        self._tolerance = tolerance_for(arena.device_kind)

    def _receive(self, op: str) -> tuple[dict[str, Any], bytes]:
        while not self._talk.readable():
            self._talk.look()
        self._talk.look()
        header, payload = self._talk.receive(MAX_WEIGHTS_BYTES)
        assert header["op"] == op, f"{header['op']} instead of {op}"
        return header, payload

    def run(self) -> tuple[bytes, Examined]:
        """One examination, from the end of training to the score: (weights handed over, result)."""
        batch = {"op": "rows", "dtype": "<u2", "epoch": 1, "progress": 0.0, "used": 0.0}
        self._talk.send(batch, bytes(4))
        header, weights = self._receive("weights")
        examination = examine(
            self._bench.rows,
            self._bench.token_bytes,
            self._bench.rules,
            batch_size=header["batch_size"],
            tolerance=self._tolerance,
            random=system_random(),
            weights_sha256=hashlib.sha256(weights).digest(),
        )
        ask = next(examination)
        while True:
            self._talk.send(*encode_ask(ask))
            try:
                ask = examination.send(answer_in(*self._receive("answer")))
            except StopIteration as finished:
                result: Examined = finished.value
                break
        self._talk.send({"op": "score", "val_bpb": result.val_bpb})
        self._receive("next")
        assert not result.reason, result.reason
        return weights, result


def interviewed(bench: Bench, arena: Arena, candidate: Candidate, weights: bytes, claims: Any, folder: Path) -> Any:
    """The deep examination by this process."""
    deep = DeepWish(lambda _: True, bench.rules.noise_prior)
    files = {"train.py": (ROOT / "train.py").read_text(encoding="utf-8")}
    order = Order(files, "train.py", seed=1, deep=deep)
    interview = Interview(arena, order, candidate, folder / "deep.log", threading.Event())
    result = interview.hold(weights, claims, bench.batch_size)
    assert result.passed, result.reason
    return result


def ready(candidate: Candidate) -> Candidate:
    """The same, once its imports are behind it: when its CPU seconds stand still."""
    seconds = -1.0
    while seconds < candidate.tree.cpu_seconds() or seconds < 0.2:
        seconds = candidate.tree.cpu_seconds()
        time.sleep(1.0)
    return candidate


def measured(action: Callable[[], list[Candidate]], before: Callable[[], float]) -> tuple[float, float]:
    """(wall, CPU) seconds of an action; it returns the processes it started, whose CPU counts from their start.

    `before` gives the CPU seconds so far of processes that were there already.
    """
    wall, cpu, others = time.perf_counter(), time.process_time(), before()
    started = action()
    seconds = time.perf_counter() - wall
    used = time.process_time() - cpu + before() - others + sum(candidate.tree.cpu_seconds() for candidate in started)
    for candidate in started:
        candidate.close()
    return seconds, used


def cost(rounds: int, train_seconds: float) -> None:
    """Measure the four ways and print one JSON object."""
    bench = Bench(train_seconds)
    patient = replace(bench.rules, exam_deadline=600.0)  # neighbours on the machine must not end the measurement
    arena = Arena(patient, bench.prepared, device_kind(detect(allow_accelerator=False)), accelerators=False)
    model = bench.model(torch.device("cpu"))
    seconds: dict[str, list[tuple[float, float]]] = {
        way: [] for way in ("plain", "screening", "deep", "deep_ready", "deep_cold")
    }
    last: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        screening = Screening(bench, arena, folder)
        waiting: list[Candidate] = []  # the process whose imports are behind it

        def plain() -> list[Candidate]:
            last["plain_bpb"] = bench.plain(model)
            return []

        def screened() -> list[Candidate]:
            last["weights"], last["examined"] = screening.run()
            return []

        def deep() -> list[Candidate]:
            fresh = start_candidate(arena, PRELOAD)
            weights, examined = screening.run()
            last["deep"] = interviewed(bench, arena, fresh, weights, examined.claims, folder)
            return [fresh]

        def deep_cold() -> list[Candidate]:
            weights, examined = screening.run()
            fresh = start_candidate(arena, PRELOAD)
            last["deep"] = interviewed(bench, arena, fresh, weights, examined.claims, folder)
            return [fresh]

        def deep_ready() -> list[Candidate]:
            weights, examined = screening.run()
            last["deep"] = interviewed(bench, arena, waiting[0], weights, examined.claims, folder)
            return []

        def cpu_of_those_before() -> float:
            return sum(candidate.tree.cpu_seconds() for candidate in (screening.candidate, *waiting))

        ways = {"plain": plain, "screening": screened, "deep": deep, "deep_ready": deep_ready, "deep_cold": deep_cold}
        for number in range(rounds + 1):
            for way, action in ways.items():
                if way == "deep_ready":
                    waiting.append(ready(start_candidate(arena, PRELOAD)))
                taken = measured(action, cpu_of_those_before)
                while waiting:
                    waiting.pop().close()
                if number:  # the first round warms up
                    seconds[way].append(taken)
        screening.candidate.close()
    assert abs(last["plain_bpb"] - last["examined"].val_bpb) < 1e-5
    values: dict[str, object] = {
        "contract": bench.rules.preset,
        "rows": list(bench.rows.shape),
        "batch_size": bench.batch_size,
        "sealed": str(arena.seal.level),
        "prefixes_of_screening": last["examined"].prefix_pairs,
        "prefixes_of_deep": last["deep"].num_prefixes,
        "bound_bpb": round(last["deep"].bound_bpb, 5),
    }
    for index, unit in enumerate(("wall", "cpu")):
        base = [taken[index] for taken in seconds["plain"]]
        for way, pairs in seconds.items():
            values[f"{way}_{unit}_seconds"] = round(statistics.median(pair[index] for pair in pairs), 3)
            if way != "plain":
                ratios = [pair[index] / reference for pair, reference in zip(pairs, base, strict=True)]
                values[f"{way}_{unit}_ratio"] = round(statistics.median(ratios), 2)
    report(values)


# ------------------------------------------------------------------------------------------------------------- tolerance


def deviations(bench: Bench, model: Any, rebuilt: Any, runtime: TorchRuntime, num_batches: int) -> np.ndarray[Any, Any]:
    """Prefix answer of `rebuilt` minus claim of `model`, nats, one per prefix: the same shapes, other neighbours."""
    random = np.random.default_rng(3)
    claim, answer = answers_of(model, runtime), answers_of(rebuilt, runtime)
    num_rows, length = len(bench.rows), bench.rules.max_seq_len
    claims = np.empty((num_rows, length))
    order = random.permutation(num_rows)
    for start in range(0, num_rows, bench.batch_size):
        group = order[start : start + bench.batch_size]
        whole = bench.rows[group].astype(np.int64)
        claims[group] = claim(AskClaim(whole[:, :-1].copy(), whole[:, 1:].copy()))
    found = []
    for _ in range(num_batches):
        picked = random.integers(0, num_rows, bench.batch_size)
        positions = random.integers(0, length - 1, bench.batch_size)
        inputs = bench.rows[random.permutation(picked), :-1].astype(np.int64)
        for line, (row, position) in enumerate(zip(picked, positions, strict=True)):
            inputs[line, : position + 1] = bench.rows[row, : position + 1]
        logits = answer(AskPrefix(inputs, positions)).astype(np.float64)
        targets = bench.rows[picked, positions + 1]
        highest = logits.max(axis=-1)
        nats = (
            highest + np.log(np.exp(logits - highest[:, None]).sum(axis=-1)) - logits[np.arange(len(picked)), targets]
        )
        found.append(nats - claims[picked, positions])
    return np.concatenate(found)


def devices() -> list[torch.device]:
    """The CPU, and the accelerator that there is."""
    found = [torch.device("cpu")]
    if torch.cuda.is_available():
        found.append(torch.device("cuda"))
    elif torch.backends.mps.is_available():
        found.append(torch.device("mps"))
    return found


def tolerance(train_seconds: float) -> None:
    """Measure and print the table."""
    bench = Bench(train_seconds)
    scored = int(byte_bearing(bench.rows, bench.token_bytes).sum())
    bpb_of_a_nat = scored / (math.log(2) * target_bytes(bench.rows, bench.token_bytes))
    print(f"{'device':8}{'dtype':10}{'mode':10}{'asked of':12}{'pairs':>7}{'largest':>12}{'mean':>12}{'sd':>12}   nats")
    for device in devices():
        runtime = TorchRuntime()
        runtime.device = device
        num_batches = 200 if device.type == "cpu" else 1000
        modes = ["eager"]
        if device.type == "cuda" or (device.type == "cpu" and shutil.which("g++")):
            modes.append("compiled")
        for dtype in (None, torch.bfloat16):
            for mode in modes:
                model = bench.model(device, dtype)
                rebuilt = bench.model(device, dtype)  # eager, as load_model makes it
                if mode == "compiled":
                    model.compile(dynamic=False)
                for asked, other in (("itself", model), ("a rebuilt", rebuilt)):
                    found = deviations(bench, model, other, runtime, num_batches)
                    name = "float32" if dtype is None else "bfloat16"
                    numbers = f"{np.abs(found).max():12.2e}{found.mean():12.2e}{found.std():12.2e}"
                    print(f"{device.type:8}{name:10}{mode:10}{asked:12}{len(found):>7}{numbers}", flush=True)
    print(f"one nat on every token is {bpb_of_a_nat:.3f} bits per byte here")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--train-seconds", type=float, default=10.0)
    parser.add_argument("--tolerance", action="store_true", help="the deviations of honest models instead of the cost")
    options = parser.parse_args()
    if options.tolerance:
        tolerance(options.train_seconds)
    else:
        cost(options.rounds, options.train_seconds)


if __name__ == "__main__":
    main()
