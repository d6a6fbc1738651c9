"""A fresh candidate process that is given weights and answers for them: deeply about prefixes, or screened on whole rows."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from autoresearch.contract.channel import encode_ask
from autoresearch.contract.deep_examination import (
    MOST_PREFIXES_PER_ROW,
    DeeplyExamined,
    examine_deeply,
    num_prefixes_for,
)
from autoresearch.contract.examination import Ask, Examined, deep_tolerance_for, examine, tolerance_for
from autoresearch.loop.candidate import Candidate
from autoresearch.loop.conversation import Conversation, Ended
from autoresearch.loop.orders import MAX_ANSWER_BYTES, Arena, Order, answer_in, constants_of, system_random
from autoresearch.vocabulary import Outcome

Result = TypeVar("Result", Examined, DeeplyExamined)


class Interview:
    """One conversation with one fresh process. `peak_memory` is that of the process that answered, MiB."""

    def __init__(self, arena: Arena, order: Order, candidate: Candidate, log_path: Path, stop: threading.Event) -> None:
        self._arena = arena
        self._order = order
        self._candidate = candidate
        self._log_path = log_path
        self._talk = Conversation(candidate, log_path, arena.limits, stop)
        self._what = "deep examination"
        self._phase = "start-up"
        self._deadline = 0.0

    def hold(self, weights: bytes, claims: NDArray[np.float64], batch_size: int) -> DeeplyExamined:
        """Rebuild the model in the fresh process, and ask it about prefixes of the rows that were claimed.

        Raises:
            Ended: the process failed, was too late, or passed a limit.
        """
        assert self._order.deep is not None
        rows = self._arena.prepared.rows(self._order.slice)
        token_bytes = self._arena.prepared.tokenizer.token_bytes
        kind = self._arena.device_kind
        examination = examine_deeply(
            rows,
            token_bytes,
            claims,
            batch_size=batch_size,
            num_prefixes=num_prefixes_for(
                claims,
                rows,
                token_bytes,
                noise_bpb=self._order.deep.noise_bpb,
                asked_before=self._order.deep.asked_before,
            ),
            tolerance=tolerance_for(kind),
            most_apart=deep_tolerance_for(kind),
            random=system_random(),
            asked_before=self._order.deep.asked_before,
        )
        self._rebuild(weights)
        # the deadline is made for one evaluation of the slice; on a busy machine an honest one of `tiny` passed it
        self._enter("deep examination", self._arena.rules.exam_deadline * (1 + MOST_PREFIXES_PER_ROW))
        result = self._ask(examination)
        if result.passed:
            self._talk.send({"op": "end"})
        return result

    def screen(self, weights: bytes, batch_size: int) -> Examined:
        """Rebuild the model in the fresh process, and examine it as a trial's own process is examined.

        The digest that the process gives of its model must be that of these weights: what `load_model` makes of them may be
        neither other weights nor other types.

        Raises:
            Ended: the process failed, was too late, or passed a limit.
        """
        examination = examine(
            self._arena.prepared.rows(self._order.slice),
            self._arena.prepared.tokenizer.token_bytes,
            self._arena.rules,
            batch_size=batch_size,
            tolerance=tolerance_for(self._arena.device_kind),
            random=system_random(),
            weights_sha256=hashlib.sha256(weights).digest(),
        )
        self._what = "examination of other weights"
        self._rebuild(weights)
        self._enter("examination", self._arena.rules.exam_deadline)
        result = self._ask(examination)
        if result.val_bpb is not None:
            self._talk.send({"op": "end"})
        return result

    @property
    def peak_memory(self) -> float:
        return self._talk.peak_memory

    def _rebuild(self, weights: bytes) -> None:
        """Start the process on its file, and have it load the weights. It is not told what it will be asked."""
        self._enter("start-up", self._arena.rules.startup_cap)
        self._candidate.begin(self._order.files, self._order.entry, self._log_path)
        self._expect("hello")
        self._talk.introduced = True
        constants = constants_of(self._arena.rules, self._order, self._arena.max_device_batch_size)
        self._talk.send({"op": "constants", "constants": constants, "task": "rebuild"}, self._arena.tokenizer_table)
        self._expect("ready")
        self._talk.send({"op": "weights"}, weights)
        self._expect("loaded")

    def _ask(self, examination: Generator[Ask, NDArray[np.float32], Result]) -> Result:
        ask = next(examination)
        while True:
            self._talk.send(*encode_ask(ask))
            header, payload = self._expect("answer")
            try:
                ask = examination.send(answer_in(header, payload))
            except StopIteration as finished:
                result: Result = finished.value
                return result

    def _enter(self, phase: str, seconds: float) -> None:
        self._phase = phase
        self._deadline = time.monotonic() + seconds

    def _expect(self, op: str) -> tuple[dict[str, Any], bytes]:
        """The next frame, which has to be this one."""
        while not self._talk.readable():
            self._watch()
        self._watch()
        header, payload = self._talk.receive(MAX_ANSWER_BYTES)
        if header.get("op") != op:
            raise Ended(
                Outcome.REJECTED, f"unexpected request {str(header.get('op'))[:40]!r} during {self._phase} afresh"
            )
        return header, payload

    def _watch(self) -> None:
        self._talk.look()
        if time.monotonic() > self._deadline:
            raise Ended(Outcome.TIMED_OUT, f"the {self._what} passed the deadline of its {self._phase}")
