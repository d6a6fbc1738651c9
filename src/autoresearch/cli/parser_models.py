"""The verbs about one trained model: train and quantize it in one go, measure its steps, make it smaller, take it elsewhere."""

from __future__ import annotations

import argparse

from autoresearch.cli.flags import Verbs, cell_flags, contract_flags, json_flag, new_verb


def experiment_verb(verbs: Verbs[argparse.ArgumentParser]) -> None:
    experiment = new_verb(
        verbs,
        "experiment",
        "experiment:experiment",
        "train the committed file once, then quantize, benchmark, convert and verify what came of it",
        "autoresearch experiment nov21 --benchmark",
    )
    experiment.add_argument(
        "tag", metavar="TAG", nargs="?", help="name of the run (default: the time; with --resume the newest)"
    )
    experiment.add_argument("--benchmark", action="store_true", help="also the rigorous benchmark of quantization")
    experiment.add_argument("--bits", metavar="LIST", help="widths to quantize to, with commas (default: 2,3,4)")
    experiment.add_argument("--resume", action="store_true", help="go on with a run: what is done is not done again")
    experiment.add_argument(
        "--committed", action="store_true", help="train the committed file although the checkout's differs"
    )
    experiment.add_argument("--file", help="experiment file (default: train.py)")
    experiment.add_argument("--seed", type=int, metavar="S", help="of the trial (default: 0)")
    contract_flags(experiment)
    cell_flags(experiment)


def quantize_verbs(verbs: Verbs[argparse.ArgumentParser]) -> None:
    quantize = new_verb(
        verbs,
        "quantize",
        "quantizing:quantize",
        "make a checkpoint smaller, and say what each width costs in bytes and in val_bpb",
        "autoresearch quantize logs/nov21/7 --bits 2,3,4",
    )
    _checkpoint_flags(quantize, methods="turboquant,turboquant_ldlq")
    quantize.add_argument("--seed", type=int, default=0, metavar="S", help="of the random rotation (default: 0)")
    quantize.add_argument("--out", metavar="FILE", help="keep the recommended form there, as safetensors")
    json_flag(quantize)
    benchmark = new_verb(
        verbs,
        "tq-benchmark",
        "quantizing:tq_benchmark",
        "compare quantization methods on a checkpoint: seeds x bits x methods, with intervals, theory and pictures",
        "autoresearch tq-benchmark logs/nov21/7 --seeds 5",
    )
    _checkpoint_flags(benchmark, methods="all")
    benchmark.add_argument("--seeds", type=int, default=5, metavar="N", help="random rotations of each (default: 5)")
    benchmark.add_argument(
        "--out", metavar="FOLDER", help="where cells, report and pictures go (default: logs/TAG/tq_benchmark)"
    )
    json_flag(benchmark)


def _checkpoint_flags(parser: argparse.ArgumentParser, *, methods: str) -> None:
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a .safetensors or .pt file, or a snapshot folder logs/TAG/N"
    )
    parser.add_argument("--bits", default="2,3,4", metavar="B", help="bits per weight, 1 to 8 (default: 2,3,4)")
    parser.add_argument("--method", default=methods, metavar="M", help=f"methods, or all (default: {methods})")
    parser.add_argument("--rows", type=int, metavar="N", help="the first N validation rows only (default: all)")
    parser.add_argument(
        "--calibration-tokens",
        type=int,
        default=65536,
        metavar="N",
        help="training text for error feedback; 0: none (default: 65536)",
    )
    parser.add_argument(
        "--scorer",
        choices=("auto", "reference", "sealed"),
        default="auto",
        metavar="WHO",
        help="who reads the rows: reference (the shipped model, here), sealed (its own experiment file), auto (default)",
    )
    parser.add_argument("--tag", help="session under whose logs/ the files go (default: the checkpoint's)")
    contract_flags(parser)


def export_verbs(verbs: Verbs[argparse.ArgumentParser]) -> None:
    export = new_verb(
        verbs,
        "export",
        "export:export",
        "make a GGUF file, or a folder for transformers, of a checkpoint",
        "autoresearch export logs/nov21/7 --format gguf --type q8_0 --verify",
    )
    export.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="snapshot folder logs/TAG/N, folder of train --save, .safetensors or .pt",
    )
    export.add_argument("--format", choices=("gguf", "hf"), default="gguf", help="gguf (default) or hf")
    export.add_argument(
        "--type",
        metavar="TYPE",
        help="of the matrices: f32, bf16 (default of gguf), q8_0, q5_1, q5_0, q4_1, q4_0; hf: f32 (default) or bf16",
    )
    export.add_argument(
        "--architecture",
        metavar="NAME",
        help="of a GGUF: apertus or autoresearch (default: apertus if the model is portable)",
    )
    export.add_argument(
        "--out", metavar="PATH", help="file or folder to write (default: named after the checkpoint, here)"
    )
    export.add_argument(
        "--verify", action="store_true", help="read it back, check every tensor, run it from the file alone, score it"
    )
    export.add_argument(
        "--rows", type=int, default=256, metavar="N", help="validation rows that --verify scores (default: 256; 0: all)"
    )
    contract_flags(export)
    _model_flags(export)
    sample = new_verb(
        verbs,
        "sample",
        "export:sample",
        "text from a checkpoint, a GGUF or an exported folder, as it is made",
        'autoresearch sample logs/nov21/7 --prompt "It is a truth" --tokens 200',
    )
    sample.add_argument("model", metavar="MODEL", help="what export takes or what it wrote")
    sample.add_argument("--prompt", default="", metavar="TEXT", help="how the text begins (default: a new document)")
    sample.add_argument("--tokens", type=int, default=256, metavar="N", help="most tokens to write (default: 256)")
    sample.add_argument(
        "--temperature", type=float, default=0.8, metavar="X", help="0: always the likeliest token (default: 0.8)"
    )
    sample.add_argument("--top-k", type=int, metavar="N", help="draw from the N likeliest tokens (default: from all)")
    sample.add_argument("--seed", type=int, default=0, metavar="S", help="the same text again (default: 0)")
    _model_flags(sample)


def _model_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json (default: the one beside the weights)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, mps, xpu (default: the best one here)")
    json_flag(parser)


def bench_verb(verbs: Verbs[argparse.ArgumentParser]) -> None:
    bench = new_verb(
        verbs,
        "bench",
        "benchmarks:bench",
        "where a step's time goes: data, forward, backward, optimizer; or two files side by side",
        "autoresearch bench train.py --compare ../other/train.py",
    )
    bench.add_argument(
        "file", metavar="FILE", nargs="?", default="train.py", help="experiment file (default: train.py)"
    )
    bench.add_argument("--compare", metavar="FILE", help="another experiment file, run in turns with the first")
    bench.add_argument("--eager", action="store_true", help="without the compiler")
    bench.add_argument(
        "--compiled",
        action="store_true",
        help="with it, also where the file leaves it off (default: as the file decides, and eager beside it)",
    )
    bench.add_argument("--steps", type=int, default=20, metavar="N", help="steps after the warm-up (default: 20)")
    bench.add_argument(
        "--rounds", type=int, default=4, metavar="N", help="processes per file of a comparison (default: 4)"
    )
    bench.add_argument(
        "--limit", type=float, default=600.0, metavar="SECONDS", help="patience with one process (default: 600)"
    )
    bench.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: 1, as a candidate's)")
    contract_flags(bench)
    json_flag(bench)
