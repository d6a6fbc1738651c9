"""The macOS layer: a profile for sandbox-exec, which denies all that it does not name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from autoresearch.sandbox.allowed import Allowed

PROGRAM = Path("/usr/bin/sandbox-exec")

# What every program on macOS asks for before its first line. Names from the system's own profiles
# (/System/Library/Sandbox/Profiles/system.sb and bsd.sb); this file was written without a Mac to try it on, and the probe
# decides on each one whether it works.
_BASIS = """\
(version 1)
(deny default)
(allow process-fork)
(allow process-exec)
(allow signal (target same-sandbox))
(allow process-info* (target same-sandbox))
(allow sysctl-read)
(allow file-read-metadata)
(allow file-read* (literal "/") (literal "/dev/null") (literal "/dev/zero") (literal "/dev/random") (literal "/dev/urandom"))
(allow file-write-data (literal "/dev/null") (literal "/dev/zero"))
(allow file-ioctl (literal "/dev/null") (literal "/dev/dtracehelper"))
(allow ipc-posix-sem)
(allow ipc-posix-shm* (ipc-posix-name-prefix "/torch_") (ipc-posix-name-prefix "/psm_") (ipc-posix-name-prefix "/mp-"))
(allow mach-lookup (global-name "com.apple.system.logger") (global-name "com.apple.system.notification_center"))
(allow mach-lookup (global-name "com.apple.system.opendirectoryd.libinfo"))
"""
_ACCELERATOR = """\
(allow iokit-open)
(allow iokit-get-properties)
(allow mach-lookup (global-name "com.apple.MTLCompilerService") (global-name-prefix "com.apple.gpu"))
(allow mach-lookup (xpc-service-name "com.apple.MTLCompilerService"))
"""


def profile(
    allowed: Allowed,
    *,
    readable: Iterable[Path],
    writable: Iterable[Path],
    accelerators: bool,
    given: Iterable[Path] = (),
) -> str:
    """The profile's text: reads by allow-list, writes to `writable` alone, no network.

    Later rules win, so what is hidden comes after what shows the folder around it, and what is given after that.
    """
    writes = [path.resolve() for path in writable]
    reads = [*allowed.read, *(path.resolve() for path in readable), *writes]
    lines = [_BASIS.rstrip()]
    if accelerators:
        lines.append(_ACCELERATOR.rstrip())
    lines += [f"(allow file-read* (literal {_quoted(path)}))" for path in allowed.listed]
    lines += [f"(allow file-read* file-map-executable (subpath {_quoted(path)}))" for path in reads]
    lines += [f"(deny file-read* (subpath {_quoted(path)}))" for path in allowed.hidden]
    lines += [f"(allow file-read* (subpath {_quoted(path.resolve())}))" for path in given]
    lines += [f"(allow file-write* (subpath {_quoted(path)}))" for path in writes]
    lines.append("(deny network*)")
    return "\n".join(lines) + "\n"


def _quoted(path: Path) -> str:
    """A path as a string of the profile's language, which is that of Scheme."""
    return json.dumps(str(path), ensure_ascii=False)
