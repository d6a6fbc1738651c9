"""Every verb and flag. docs/commands.md is tested against this file."""

from __future__ import annotations

import argparse

from autoresearch import __version__
from autoresearch.cli.flags import Verbs, contract_flags, json_flag, new_verb, scope_flags, seconds, session_flags
from autoresearch.cli.parser_models import bench_verb, experiment_verb, export_verbs, quantize_verbs


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace whose `run` carries it out. Exits with 2 on wrong usage."""
    return build_parser().parse_args(arguments)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="autoresearch",
        description="Research on language-model pretraining that runs by itself and keeps a record one can believe.",
        epilog="Start with: autoresearch prepare && autoresearch research TAG",
    )
    parser.add_argument("--version", action="version", version=f"autoresearch {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _setup_verbs(verbs)
    _work_verbs(verbs)
    _look_verbs(verbs)
    _prove_verbs(verbs)
    _compare_verb(verbs)
    quantize_verbs(verbs)
    export_verbs(verbs)
    bench_verb(verbs)
    _hook_verb(verbs)
    return parser


def _setup_verbs(verbs: Verbs[argparse.ArgumentParser]) -> None:
    doctor = new_verb(
        verbs,
        "doctor",
        "setup:doctor",
        "say what this machine has, what fits it and what is missing",
        "autoresearch doctor",
    )
    json_flag(doctor)
    init = new_verb(
        verbs, "init", "setup:init", "make a new workspace in a git repository of its own", "autoresearch init mylab"
    )
    init.add_argument("dir", metavar="DIR", help="folder to make; must be new or empty")
    prepare = new_verb(
        verbs, "prepare", "setup:prepare", "get data and tokenizer ready, once", "autoresearch prepare --contract tiny"
    )
    contract_flags(prepare)
    prepare.add_argument(
        "--download-workers", type=int, default=4, metavar="N", help="files that are downloaded at once (default: 4)"
    )
    prepare.add_argument("--force", action="store_true", help="build again even when it is there")
    prepare.add_argument(
        "--stats", action="store_true", help="count what there is: lengths, duplicates, crops, how long an epoch lasts"
    )
    json_flag(prepare)


def _work_verbs(verbs: Verbs[argparse.ArgumentParser]) -> None:
    train = new_verb(
        verbs,
        "train",
        "work:train",
        "one run in this process, unsealed, the same as python train.py",
        "autoresearch train train.py",
    )
    train.add_argument(
        "file", metavar="FILE", nargs="?", help="experiment file (default: that of the backend in force)"
    )
    train.add_argument(
        "--save", metavar="FOLDER", help="leave a checkpoint there: weights, tokenizer, the file, its score"
    )
    contract_flags(train)
    attempt = new_verb(
        verbs,
        "try",
        "work:try_one",
        "one experiment from the edit in this checkout: commit, sealed trials, verdict, row",
        'autoresearch try -m "halve the batch"',
    )
    attempt.add_argument("-m", "--message", required=True, metavar="TEXT", help="the idea in one line")
    attempt.add_argument(
        "--note",
        default="",
        metavar="TEXT",
        help="one line for the person: an idea about files that this session may not edit",
    )
    attempt.add_argument("--tag", help="session to try in (default: the newest; a new one is begun when there is none)")
    attempt.add_argument(
        "--edit", metavar="FILE", help="try the text of this file (-: standard input) and leave the checkout alone"
    )
    attempt.add_argument(
        "--wait", type=seconds, metavar="SECONDS", help="patience while others try (default: as long as it takes)"
    )
    scope_flags(attempt)
    attempt.add_argument("--experiments", type=int, metavar="N", help="limit of the session: N experiments in all")
    attempt.add_argument("--hours", type=float, metavar="H", help="limit of the session: H hours since it was begun")
    session_flags(attempt)
    json_flag(attempt)
    research = new_verb(
        verbs,
        "research",
        "work:research",
        "the night: propose, train, judge, keep or discard, until stopped or a limit is reached",
        "autoresearch research nov21 --experiments 100 --hours 10",
    )
    research.add_argument(
        "tag", metavar="TAG", help="name of the session; its branch is autoresearch/TAG, or autoresearch-data/TAG"
    )
    research.add_argument("--resume", action="store_true", help="go on with a session that was stopped or killed")
    research.add_argument(
        "--committed", action="store_true", help="start from the committed file although the checkout's differs"
    )
    research.add_argument(
        "--proposer", help="who has the ideas: search[:tpe|cmaes|random], llm, hybrid[:tpe|cmaes], cli:AGENT"
    )
    research.add_argument(
        "--model",
        metavar="CHAIN",
        help="language models in order of preference, e.g. anthropic:claude-opus-4-5,ollama:qwen3",
    )
    research.add_argument("--usd", type=float, metavar="X", help="most the session may spend on models")
    research.add_argument("--tokens", type=int, metavar="N", help="most tokens the session may send and receive")
    research.add_argument(
        "--model-share",
        type=float,
        metavar="P",
        help="share of a hybrid's experiments that the model proposes (default: 0.3)",
    )
    scope_flags(research)
    research.add_argument("--experiments", type=int, metavar="N", help="stop after N experiments of the session")
    research.add_argument("--hours", type=float, metavar="H", help="stop after H hours")
    research.add_argument("--crash-streak", type=int, metavar="N", help="stop after N crashes in a row (default: 8)")
    session_flags(research)
    json_flag(research)
    calibrate = new_verb(
        verbs,
        "calibrate",
        "work:calibrate",
        "measure the noise of the baseline, or of a session's incumbent, here",
        "autoresearch calibrate --repeats 5",
    )
    calibrate.add_argument(
        "tag", metavar="TAG", nargs="?", help="session whose incumbent is repeated (default: the committed train.py)"
    )
    calibrate.add_argument("--repeats", type=int, default=5, metavar="N", help="runs in all (default: 5)")
    session_flags(calibrate)
    json_flag(calibrate)
    experiment_verb(verbs)
    _mcp_verb(verbs)


def _mcp_verb(verbs: Verbs[argparse.ArgumentParser]) -> None:
    new_verb(
        verbs,
        "mcp",
        "mcp_server:serve",
        "offer status, history, show, try and noise to an agent over the Model Context Protocol, on standard input and output",
        "claude mcp add autoresearch -- autoresearch mcp",
    )


def _look_verbs(verbs: Verbs[argparse.ArgumentParser]) -> None:
    status = new_verb(
        verbs,
        "status",
        "look:status",
        "what is running, and how the newest session stands",
        "autoresearch status --watch",
    )
    status.add_argument("--tag", help="session (default: the newest)")
    status.add_argument("--watch", action="store_true", help="look again every second until Ctrl-C")
    json_flag(status)
    history = new_verb(
        verbs, "history", "look:history", "every experiment of a session, with a chart", "autoresearch history nov21"
    )
    history.add_argument("tag", metavar="TAG", nargs="?", help="session (default: the newest)")
    history.add_argument("--write", action="store_true", help="write tables and snapshots again from the ledger")
    history.add_argument("--chart", metavar="FILE", help="also save the chart as PNG")
    json_flag(history)
    show = new_verb(verbs, "show", "look:show", "one experiment in full", "autoresearch show 7")
    show.add_argument("number", metavar="N", type=int)
    show.add_argument("--tag", help="session (default: the newest)")
    json_flag(show)
    diff = new_verb(
        verbs, "diff", "look:diff", "what experiment N changed, or how M differs from N", "autoresearch diff 3 7"
    )
    diff.add_argument("number", metavar="N", type=int)
    diff.add_argument("other", metavar="M", type=int, nargs="?")
    diff.add_argument("--tag", help="session (default: the newest)")


def _prove_verbs(verbs: Verbs[argparse.ArgumentParser]) -> None:
    redteam = new_verb(
        verbs,
        "redteam",
        "prove:redteam",
        "run every documented cheat, and honest controls, against this machine, and say what held",
        "autoresearch redteam",
    )
    redteam.add_argument("ids", metavar="ID", nargs="*", help="cheats or controls, or a group: B01, E (default: all)")
    redteam.add_argument(
        "--layers",
        default="auto",
        metavar="KIND",
        help="seal to test: auto, bubblewrap, landlock, sandbox-exec, none (default: auto, the strongest here)",
    )
    redteam.add_argument(
        "--full",
        action="store_true",
        help="each cheat 3 times and each control 20 times, slow ones too, and detection rates: half an hour or more",
    )
    redteam.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    json_flag(redteam)


def _compare_verb(verbs: Verbs[argparse.ArgumentParser]) -> None:
    compare = new_verb(
        verbs,
        "compare",
        "compare:compare",
        "set experiments or whole sessions side by side: scores, gain, speed, memory, and what changed",
        "autoresearch compare 0 4 nov20:7",
    )
    compare.add_argument(
        "items",
        metavar="WHICH",
        nargs="*",
        help="N, TAG:N, or TAG for a session's incumbent (default: baseline and the last 5)",
    )
    compare.add_argument("--last", type=int, metavar="N", help="the last N experiments, beside the incumbent they met")
    compare.add_argument("--tag", help="session that plain numbers mean (default: the newest)")
    json_flag(compare)


def _hook_verb(verbs: Verbs[argparse.ArgumentParser]) -> None:
    hook = new_verb(
        verbs,
        "hook",
        "hook:hook",
        "answer a hook of the Claude Code plugin; its JSON comes on standard input",
        "autoresearch hook scope < event.json",
    )
    hook.add_argument(
        "name",
        metavar="NAME",
        choices=("begin", "scope", "shell", "preflight", "stop"),
        help="begin, scope, shell, preflight or stop",
    )
