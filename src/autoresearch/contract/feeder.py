"""The feeder: its own process turns training text into packed batches and keeps the next ones ready.

It never sees the clock. Frames in: {"op": "open", "stream", "batch_size", "seq_len"}. Frames out: {"op": "rows",
"stream", "epoch", "dtype"} with the rows as payload, for as long as the socket takes them.
"""

from __future__ import annotations

import argparse
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoresearch.contract import frames
from autoresearch.contract.packing import pack_batches
from autoresearch.contract.prepared import open_prepared_directory


class DocumentStream:
    """Documents of the training text in the trial's order, remembering the epoch of the last one taken."""

    def __init__(self, documents: Iterator[tuple[NDArray[np.unsignedinteger], int]]) -> None:
        self.epoch = 1
        self._documents = documents

    def __iter__(self) -> Iterator[NDArray[np.unsignedinteger]]:
        for tokens, epoch in self._documents:
            self.epoch = epoch
            yield tokens


def serve(channel: socket.socket, documents: DocumentStream, bos: int) -> None:
    """Send batches until the other side closes. A new "open" starts a new shape at the next document."""
    request, _ = frames.receive(channel, 0)
    while True:
        for rows in pack_batches(iter(documents), request["batch_size"], request["seq_len"] + 1, bos):
            if select.select([channel], [], [], 0)[0]:
                request, _ = frames.receive(channel, 0)
                break
            header = {"op": "rows", "stream": request["stream"], "epoch": documents.epoch, "dtype": rows.dtype.str}
            frames.send(channel, header, rows.tobytes())
        else:
            return


def main(arguments: list[str] | None = None) -> None:
    """Serve one trial. Started by the referee."""
    parser = argparse.ArgumentParser(prog="autoresearch-feeder")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args(arguments)
    prepared = open_prepared_directory(options.prepared)
    channel = socket.socket(fileno=options.fd)
    bos = prepared.tokenizer.get_bos_token_id()
    try:
        serve(channel, DocumentStream(prepared.documents(options.seed)), bos)
    except frames.BrokenFrame:
        return  # the trial is over: the referee closed its end


if __name__ == "__main__":
    main()
