"""`autoresearch prepare --stats`: what there is to train on, as a page, a picture and JSON."""

from __future__ import annotations

from autoresearch.cli import screen
from autoresearch.contract.prepared import Prepared
from autoresearch.contract.rules import Clock, Rules
from autoresearch.records.ledger import Ledger
from autoresearch.report.corpus import corpus_text, save_corpus_picture
from autoresearch.report.corpus_statistics import Speed, statistics_of
from autoresearch.vocabulary import WorkspaceError
from autoresearch.workspace import open_workspace


def say_statistics(prepared: Prepared, rules: Rules, *, as_json: bool) -> int:
    """Count and print, and write the picture beside the prepared folder.

    Raises:
        DataMissing, DataCorrupt: a token shard has gone or is damaged. DiskError: the picture cannot be written.
    """
    found = statistics_of(prepared, time_budget=rules.time_budget, speed=_measured_speed(rules))
    picture = save_corpus_picture(found, prepared.directory.with_name(f"{prepared.directory.name}.svg"))
    if as_json:
        screen.print_json({**found.as_json(), "picture": str(picture)})
    else:
        screen.say(corpus_text(found, screen.width()))
        screen.say(f"picture: {picture}")
    return 0


def _measured_speed(rules: Rules) -> Speed | None:
    """What the newest finished trial of this contract reached, by the ledger of the workspace we stand in.

    A clock that counts steps has no seconds, so no speed.
    """
    if rules.clock is Clock.STEPS:
        return None
    try:
        path = open_workspace().ledger_path
    except WorkspaceError:
        return None
    if not path.is_file():
        return None
    ledger = Ledger(path)
    try:
        sessions = {session.tag for session in ledger.sessions() if session.preset == rules.preset}
        trials = [row for row in ledger.trials() if row.tag in sessions and row.trial and row.trial.tok_sec > 0]
    finally:
        ledger.close()
    if not trials:
        return None
    newest = max(trials, key=lambda row: row.id)
    assert newest.trial is not None
    return Speed(newest.trial.tok_sec, f"session {newest.tag}, experiment {newest.number}")
