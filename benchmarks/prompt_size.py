"""Size of what is sent to a language model, against the length of a session's history.

    python benchmarks/prompt_size.py [--budget 24000] [--show]

The incumbent is this repository's train.py. The history is made up: every experiment has a description, a mechanism and a
lesson as long as they are read, one in six is kept, and there are 60 topics, so a real session's prompt is shorter. Prints one
JSON object: tokens by estimate (providers/tokens.py) of the standing instructions and of the request, of both together with all
of `--budget`, how many experiments have a line of their own, and the time it took to write. With `--show`, the last request
itself.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from autoresearch.proposers.prompt import ask_for, system_prompt
from autoresearch.proposers.situation import MachineFacts, PastExperiment, Situation
from autoresearch.providers.tokens import estimated_tokens
from autoresearch.vocabulary import Outcome, Status

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = (0, 10, 100, 1000)
TEXT = (
    "replace the squared rectifier by a gated unit of the same number of weights and shorten the warm down so that the last "
    "tenth of the budget runs at a higher rate while value embeddings are shared between neighbouring layers of the stack"
)
WORDS = TEXT.split()


def sentence(seed: int, length: int) -> str:
    """Words in an order of their own, up to `length` characters."""
    words = [WORDS[(seed * 31 + 7 * i * (1 + seed % 5)) % len(WORDS)] for i in range(length // 4)]
    return f"{seed}: {' '.join(words)}"[:length]


def history_of(length: int, source: str) -> list[PastExperiment]:
    past: list[PastExperiment] = []
    base = 0
    for number in range(1, length + 1):
        status = Status.KEEP if number % 6 == 0 else Status.CRASH if number % 11 == 0 else Status.DISCARD
        gain = (
            None
            if status is Status.CRASH
            else (0.002 if status is Status.KEEP else -0.004 + 0.00001 * (number * 37 % 500))
        )
        past.append(
            PastExperiment(
                number=number,
                description=sentence(number, 200),
                files={"train.py": source},
                details={
                    "topic": f"topic number {number * 17 % 60}",
                    "mechanism": sentence(number + 1, 300),
                    "lesson": sentence(number * 3, 160),
                },
                status=status,
                val_bpb=None if gain is None else 1.9 - gain,
                gain=gain,
                tag="nov21",
                base=base,
                interval=None if gain is None else (gain - 0.003, gain + 0.003),
                outcome=Outcome.CRASHED if status is Status.CRASH else Outcome.FINISHED,
            )
        )
        base = number if status is Status.KEEP else base
    return past


def situation_of(length: int, source: str) -> Situation:
    return Situation(
        {"train.py": source},
        history_of(length, source),
        tag="nov21",
        incumbent_number=6 * (length // 6),
        val_bpb=1.9,
        val_bpb_error=0.004,
        noise=0.015,
        baseline_val_bpb=2.1,
        machine=MachineFacts("cpu", "AMD EPYC", 16.0, "20 CPU seconds", 17_000.0, 0.6),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=24_000, help="tokens of instructions and request together")
    parser.add_argument("--show", action="store_true", help="print the longest request too")
    arguments = parser.parse_args()
    source = (ROOT / "train.py").read_text(encoding="utf-8")
    system = estimated_tokens(system_prompt("model", "train.py"))
    rows = []
    for length in LENGTHS:
        situation = situation_of(length, source)
        began = time.perf_counter()
        text = ask_for("improve", situation, surface="train.py", preset="tiny", budget_tokens=arguments.budget - system)
        seconds = time.perf_counter() - began
        request = estimated_tokens(text)
        rows.append(
            {
                "experiments": length,
                "request_tokens": request,
                "request_bytes": len(text.encode()),
                "all_tokens": system + request,
                "own_lines": sum(line.startswith("| #") for line in text.split("\n")),
                "whole_file": "[not shown" not in text,
                "seconds": round(seconds, 3),
            }
        )
    result = {
        "budget": arguments.budget,
        "system_tokens": system,
        "file_tokens": estimated_tokens(source),
        "by_history": rows,
    }
    print(json.dumps(result, indent=2))
    if arguments.show:
        print(text)


if __name__ == "__main__":
    main()
