"""`autoresearch` whose phases after training take no time: `python stand_in_phases.py experiment TAG ...`.

Only what the verbs do is replaced. STAND_IN says what else happens in a phase: `quantize=fail`, `convert=hang`, `quantize=die`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from autoresearch import cli
from autoresearch.cli import experiment, experiment_phases, phase_process
from autoresearch.records.ledger import now
from autoresearch.records.run_report import write_status
from autoresearch.vocabulary import DataCorrupt

FOLDERS = {"quantize": "quantized", "benchmark": "benchmark", "convert": "export"}


def stand_in(arguments: list[str]) -> int:
    name, folder = arguments[0], Path(arguments[1])
    with Path("calls.txt").open("a", encoding="utf-8") as calls:
        calls.write(f"{name} {' '.join(arguments[2:])}".strip() + "\n")
    status = {"quantize": "quant", "benchmark": "bench"}.get(name)
    if status:
        values = {"phase": "scoring", "progress": 0.5, "updated_at": now(), "pid": os.getpid(), "message": "4 bits"}
        write_status([folder / f"{status}_status.txt"], values)
    wish = dict(part.split("=") for part in filter(None, os.environ.get("STAND_IN", "").split(","))).get(name)
    if wish == "fail":
        raise DataCorrupt("tensor lm_head.weight holds NaN", hint="autoresearch experiment again")
    if wish == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if wish == "hang":
        threading.Event().wait()
    if name in FOLDERS:
        made = folder / FOLDERS[name] / "result.json"
        made.parent.mkdir(exist_ok=True)
        made.write_text(f"{name} of {len((folder / 'checkpoint' / 'checkpoint.safetensors').read_bytes())} bytes\n")
    print(f"{name}: fine")
    return 0


experiment_phases.COMMANDS = {
    "quantize": lambda plan, folder: [["quantize", str(folder), "--bits", plan.bits]],
    "benchmark": lambda _plan, folder: [["benchmark", str(folder)]],
    "convert": lambda _plan, folder: [["convert", str(folder)]],
    "verify": lambda _plan, folder: [["verify", str(folder)]],
}
experiment_phases._OUTPUTS = {name: (folder,) for name, folder in FOLDERS.items()}
experiment_phases._verb = stand_in
experiment.PROCESS = (sys.executable, __file__, "--phase")

if __name__ == "__main__":
    if sys.argv[1] == "--phase":
        raise SystemExit(phase_process.main(sys.argv[2:]))
    raise SystemExit(cli.main(sys.argv[1:]))
