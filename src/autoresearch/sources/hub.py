"""The one door to the Hugging Face Hub: what a repository holds at a commit, and its files, whole.

Listing, addresses, tokens, mirrors (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE) and each transfer are huggingface_hub's. Ours
is what its own `hf_hub_download` has not had since it downloads to a name that is new each time: bytes that a killed process
left are taken up again, under a name that holds the content's hash, and the whole file is checked against that hash.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from autoresearch.files import disk_error
from autoresearch.sources.telling import Tell
from autoresearch.vocabulary import AutoresearchError, DataCorrupt, DataMissing, UsageError

ATTEMPTS = (
    5  # of one request that the server fails, and of one file; each file attempt goes on where the last one ended
)
_WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds between them
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_MINT_TOKEN = "export HF_TOKEN=hf_…"


_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


class HubUnreachable(DataMissing):
    """There is no asking the Hub: no network, a server in trouble, or the user's wish to stay offline."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository at one commit. sha256 is None for small files; they have git's hash of their content."""

    path: str
    bytes: int
    sha256: str | None
    git_sha1: str

    @property
    def content_key(self) -> str:
        """Hash of the content, in hex."""
        return self.sha256 or self.git_sha1


@dataclass(frozen=True)
class Repository:
    """A repository at one commit: its files, and the `configs` of its card."""

    name: str
    commit: str
    files: Mapping[str, RemoteFile]
    configs: tuple[Mapping[str, Any], ...]


class Hub:
    """The Hub that HF_ENDPOINT names, or the public one."""

    def __init__(self) -> None:
        """Raises HubUnreachable where HF_HUB_OFFLINE is set: whoever comes here lacks something."""
        import huggingface_hub
        from huggingface_hub import constants
        from huggingface_hub.utils import logging

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # what it would say of each attempt, we say once, when it matters
        # the library reads the variable when it is imported; we, at each use
        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        if constants.is_offline_mode():
            raise HubUnreachable("offline: HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE")
        self._api = huggingface_hub.HfApi(endpoint=self.endpoint)
        self._stop = threading.Event()

    def stop(self) -> None:
        """End the transfers that run, in whatever thread, at their next piece; what has come is kept."""
        self._stop.set()

    def go_on(self) -> None:
        """Let transfers run again."""
        self._stop.clear()

    def repository(self, name: str, revision: str | None) -> Repository:
        """What a dataset's repository holds at a revision (a branch, a tag or a commit; None: its main branch).

        Raises:
            HubUnreachable: it cannot be asked. DataMissing: it is not there, private or gated.
            DataCorrupt: its listing holds no hashes.
            UsageError: it has no such revision.
        """
        from huggingface_hub.hf_api import RepoFile

        with self._errors(name):
            found = _patiently(lambda: self._api.dataset_info(name, revision=revision, timeout=30.0))
            commit = str(found.sha)
            entries = _patiently(
                lambda: list(self._api.list_repo_tree(name, repo_type="dataset", revision=commit, recursive=True))
            )
        files = {
            entry.path: _remote_file(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
            for entry in entries
            if isinstance(entry, RepoFile)
        }
        card = found.card_data.to_dict() if found.card_data else {}
        configs = card.get("configs") or []
        return Repository(name, commit, files, tuple(config for config in configs if isinstance(config, Mapping)))

    def fetch(self, repository: Repository, file: RemoteFile, folder: Path, tell: Tell, *, suffix: str = "") -> Path:
        """The file, whole and checked, in `folder` under a name made of its hash.

        suffix: of the name while it is partial, so that processes without locks do not write to one file.

        Raises:
            DataMissing: it could not be got. DataCorrupt: what came has another hash, each time.
            DiskError: the disk is full or cannot be written.
        """
        whole = folder / f"{file.content_key[:32]}.whole"
        if whole.is_file() and matches(whole, file):
            return whole
        part = folder / f"{file.content_key[:32]}{suffix}.part"
        tell.begin(file.path, file.bytes, _size(part))
        try:
            with self._errors(repository.name, file.path, part):
                folder.mkdir(parents=True, exist_ok=True)
                self._fetch_part(repository, file, part, tell)
                part.replace(whole)
        finally:
            tell.end(file.path)
        return whole

    def _fetch_part(self, repository: Repository, file: RemoteFile, part: Path, tell: Tell) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._go_on(repository, file, part, tell)
            except Exception as error:
                if attempt == ATTEMPTS or not _is_transient(error):
                    raise
                if isinstance(error, OSError) and _size(part) >= file.bytes:
                    part.unlink(missing_ok=True)  # longer than it may be: not the beginning of our file
                tell.say(f"{file.path}: {_first_line(error)}; trying again")
                time.sleep(_WAITS[attempt - 1])
                continue
            if matches(part, file):
                return
            tell.advance(file.path, -_size(part))
            part.unlink()
            tell.say(f"{file.path}: what came is not what {repository.name} lists (other hash); fetching it again")
        raise DataCorrupt(
            f"{self.endpoint} serves {file.path} of {repository.name} damaged: {ATTEMPTS} times its hash was not"
            f" {file.content_key[:16]}…",
            hint="export HF_ENDPOINT=… (another mirror), then the same command: what is whole is kept",
        )

    def _go_on(self, repository: Repository, file: RemoteFile, part: Path, tell: Tell) -> None:
        """Append to the part what is missing of it."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        url = hf_hub_url(
            repository.name, file.path, repo_type="dataset", revision=repository.commit, endpoint=self.endpoint
        )
        headers = build_hf_headers()
        found = get_hf_file_metadata(url, headers=headers, endpoint=self.endpoint, timeout=30.0, retry_on_errors=True)
        if found.location and not _same_host(found.location, url):
            headers.pop("authorization", None)  # a signed address of another host: the token is none of its business
        have = _size(part)
        if have > file.bytes:
            part.unlink()
            have = 0
        with part.open("ab") as stream:
            http_get(
                found.location or url,
                stream,
                resume_size=have,
                headers=headers,
                expected_size=file.bytes,
                displayed_filename=file.path,
                tqdm_class=_bar(file.path, tell, self._stop),
            )
            stream.flush()
            os.fsync(stream.fileno())

    @contextmanager
    def _errors(self, name: str, path: str = "", part: Path | None = None) -> Iterator[None]:
        """Turns the library's errors into ours, each ending with what to type."""
        import httpx2
        from huggingface_hub import errors

        what = f"{path} of {name}" if path else f"the dataset {name}"
        try:
            yield
        except errors.OfflineModeIsEnabled as error:
            raise HubUnreachable("offline: HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE") from error
        except errors.GatedRepoError as error:
            hint = f"accept its terms at {self.endpoint}/datasets/{name}, then: {_MINT_TOKEN}"
            raise DataMissing(f"{name} is gated: its owner wants its terms accepted", hint=hint) from error
        except errors.RevisionNotFoundError as error:
            raise UsageError(f"{name} has no such revision", hint=f"look at {self.endpoint}/datasets/{name}") from error
        except errors.RepositoryNotFoundError as error:
            raise DataMissing(f"no dataset {name} at {self.endpoint}, or it is private", hint=_MINT_TOKEN) from error
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            hint = f"{_MINT_TOKEN} (higher limits)" if status == 429 else "the same command, in some minutes"
            kind = HubUnreachable if status in _TRANSIENT else DataMissing
            raise kind(f"{what}: {self.endpoint} answers {status}", hint=hint) from error
        except errors.HFValidationError as error:
            raise UsageError(f"{name!r} is no name of a dataset: {_first_line(error)}", hint="hf:owner/name") from error
        except httpx2.HTTPError as error:
            hint = (
                "check the network (or export HF_ENDPOINT=… for a mirror), then the same command: what is there is kept"
            )
            raise HubUnreachable(f"{what}: cannot reach {self.endpoint} ({_first_line(error)})", hint=hint) from error
        except ValueError as error:  # 50 GB and more come by another protocol only
            raise DataMissing(
                f"{what}: {_first_line(error)}", hint=f"hf download --repo-type dataset {name}"
            ) from error
        except OSError as error:
            if error.errno is not None and part is not None:
                raise disk_error(error, part) from error
            raise DataMissing(
                f"{what}: {_first_line(error)}", hint="the same command: what is there is kept"
            ) from error


def _remote_file(path: str, size: int, sha256: str | None, git_sha1: str) -> RemoteFile:
    """A file of a listing. Its hash becomes a file's name here, so it has to be one.

    Raises:
        DataCorrupt: it is not.
    """
    if not _SHA1.fullmatch(git_sha1) or (sha256 is not None and not _SHA256.fullmatch(sha256)):
        raise DataCorrupt(f"the listing has no hash of {path}", hint="check HF_ENDPOINT, if it is set")
    return RemoteFile(path, size, sha256, git_sha1)


def matches(path: Path, file: RemoteFile) -> bool:
    """Whether a file on disk has the content that the repository lists. Reads it."""
    if _size(path) != file.bytes:
        return False
    if file.sha256 is None:
        digest = hashlib.sha1(b"blob %d\0" % file.bytes, usedforsecurity=False)  # git's name for the content
    else:
        digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == file.content_key


def _patiently(ask: Callable[[], Any]) -> Any:
    """The answer, after as many attempts as a passing trouble deserves."""
    for wait in _WAITS:
        try:
            return ask()
        except Exception as error:
            if not _is_transient(error):
                raise
            time.sleep(max(wait, _retry_after(error)))
    return ask()


def _is_transient(error: Exception) -> bool:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, AutoresearchError | OfflineModeIsEnabled):
        return False
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _TRANSIENT
    if isinstance(error, RuntimeError):
        # another thread's connection failed, and the library closed the client that all of them share
        return "closed" in str(error)
    if isinstance(error, httpx2.HTTPError):
        return True
    # its own complaint about a size has no error number; the disk's complaints have
    return isinstance(error, OSError) and error.errno in (None, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT)


def _retry_after(error: Exception) -> float:
    """Seconds that a server asks us to wait; 0 where it says nothing."""
    response = getattr(error, "response", None)
    asked = str(response.headers.get("Retry-After", "")) if response is not None else ""
    return min(float(asked), 300.0) if re.fullmatch(r"\d{1,6}", asked) else 0.0


class _Stopped(AutoresearchError):
    """The user wants no more of it."""


def _bar(name: str, tell: Tell, stop: threading.Event) -> Any:
    """What http_get takes for a progress bar: a class that hands the bytes on."""

    class Bar:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, num_bytes: float | None = 1) -> None:
            if stop.is_set():
                raise _Stopped(f"{name}: stopped", hint="the same command: what is there is kept")
            tell.advance(name, int(num_bytes or 0))

        def close(self) -> None:
            pass

    return Bar


def _same_host(left: str, right: str) -> bool:
    from urllib.parse import urlsplit

    one, other = urlsplit(left), urlsplit(right)
    return (one.scheme, one.netloc) == (other.scheme, other.netloc)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
