"""Flags that several verbs have, and what makes a verb."""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Callable

Verbs = argparse._SubParsersAction  # argparse has no public name for it


def new_verb(
    verbs: Verbs[argparse.ArgumentParser], name: str, target: str, does: str, example: str
) -> argparse.ArgumentParser:
    """One verb; `target` is module:function, imported only when the verb is run."""
    parser = verbs.add_parser(
        name,
        help=does,
        description=does[0].upper() + does[1:] + ".",
        epilog=f"example: {example}",
    )
    parser.set_defaults(run=_later(target))
    return parser


def _later(target: str) -> Callable[[argparse.Namespace], int]:
    def run(options: argparse.Namespace) -> int:
        module, function = target.split(":")
        code: int = getattr(importlib.import_module(f"autoresearch.cli.{module}"), function)(options)
        return code

    return run


def scope_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--program", help="what research edits: model (default) or data")
    parser.add_argument(
        "--file", help="file that it edits first (default: that of the backend in force, or data_sources.py for data)"
    )


def contract_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--contract", metavar="P", help="preset: tiny, small, standard, long, smoke (default: what fits this machine)"
    )
    parser.add_argument(
        "--dataset",
        metavar="D",
        help="embedded, climbmix, tinystories, fineweb-edu, wikitext, hf:owner/name[:config[:split]], or a file or folder"
        " of your own (default: the contract's)",
    )
    parser.add_argument(
        "--num-shards",
        type=int,
        metavar="N",
        help="training shards of it; -1: all (default: as prepared last, at first the dataset's own)",
    )


def session_flags(parser: argparse.ArgumentParser) -> None:
    contract_flags(parser)
    parser.add_argument(
        "--seed", type=int, metavar="S", help="of the session; every trial's seed comes from it (default: 0)"
    )
    parser.add_argument(
        "--calibration", type=int, metavar="N", help="runs of the baseline that measure noise first (default: 3)"
    )
    parser.add_argument("--keep-probability", type=float, metavar="P", help="how sure a keep must be (default: 0.8)")
    parser.add_argument(
        "--max-pairs", type=int, metavar="N", help="most repeats of one idea beside the incumbent (default: 3)"
    )
    parser.add_argument(
        "--refresh-every", type=int, metavar="N", help="re-run the incumbent after N experiments (default: 8)"
    )
    cell_flags(parser)
    parser.add_argument(
        "--max-device-batch-size",
        type=int,
        metavar="N",
        help="most rows of a forward pass (default: measured, the same)",
    )
    parser.add_argument(
        "--blas",
        metavar="PATH",
        help="library for MLX's matrix products on a CPU: auto (the system's OpenBLAS), none, or a path (default: auto)",
    )
    parser.add_argument(
        "--objective",
        metavar="NAME",
        help="what is judged: bpb, or bpb@4bit after quantization, 1 to 8 bits, bpb@4bit:METHOD (default: bpb)",
    )


def cell_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads of a candidate (default: measured, once for this machine)"
    )
    parser.add_argument(
        "--sandbox",
        metavar="KIND",
        help="auto, bubblewrap, landlock, sandbox-exec or none (default: auto, the strongest that works here)",
    )


def json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="JSON lines for machines")


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds")
    return value
