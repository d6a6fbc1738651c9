"""A hub on loopback that speaks what huggingface_hub calls, serves files from a content network on another port, and misbehaves.

GET  /api/datasets/O/N[/revision/R]                 commit and card
GET  /api/datasets/O/N/tree/COMMIT?recursive=…      files with sizes and hashes, in pages with Link headers
HEAD /datasets/O/N/resolve/COMMIT/PATH              ETag, X-Linked-ETag, X-Linked-Size, X-Repo-Commit, Location
GET  the location                                   the bytes, from Range on
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 4  # files on a page of a listing


@dataclass
class Repo:
    """A dataset: its files by path, what its card says, and whether it takes a token or accepted terms."""

    files: dict[str, bytes]
    card: dict[str, object] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False

    @property
    def commit(self) -> str:
        names = "".join(f"{path}{hashlib.sha256(data).hexdigest()}" for path, data in sorted(self.files.items()))
        return hashlib.sha1(names.encode()).hexdigest()


class HubServer:
    """What it holds, what was asked of it, and the faults it has still to show.

    faults: for a path, what its next GETs of content do: "429", "500", "cut" (the connection breaks in the middle),
    "short" (a well-formed answer with half of the content), "corrupt" (one byte differs), "hang" (it stops in the
    middle until `release` is set). For "api" they are what the next question to the API gets.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.branches: dict[tuple[str, str], Repo] = {}
        self.faults: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str]] = []
        self.content: list[tuple[str, int, int]] = []  # path, first byte asked for, bytes sent
        self.tokens_seen_by_content: list[str] = []
        self.hanging = threading.Event()  # set when a "hang" has begun
        self.release = threading.Event()
        self.hub_address = self.content_address = ""
        self._lock = threading.Lock()

    def repo_at(self, name: str, revision: str | None) -> Repo | None:
        """The repository at a branch or commit; None when it has no such."""
        if (name, revision or "") in self.branches:
            return self.branches[name, revision or ""]
        for (owner, _), repo in self.branches.items():
            if owner == name and repo.commit == revision:
                return repo
        repo = self.repos[name]
        return repo if revision in (None, "main", repo.commit) else None

    def fault(self, path: str) -> str:
        with self._lock:
            left = self.faults.get(path) or [""]
            return left.pop(0)

    def downloads(self) -> Counter[str]:
        """How often the content of each path was asked for."""
        return Counter(path for path, _, _ in self.content)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, value: object, **headers: str) -> None:
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def refuse(self, fault: str) -> bool:
        if fault == "429":
            self.answer(429, b"slow down", Retry_After="7")
        elif fault == "500":
            self.answer(500, b"oops")
        return fault in ("429", "500")


class _Hub(_Handler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        state = self.server_state
        parts = urlsplit(self.path)
        pieces = [unquote(piece) for piece in parts.path.strip("/").split("/")]
        state.requests.append((self.command, self.path))
        if pieces[:2] == ["api", "datasets"]:
            self.api(pieces[2:], parse_qs(parts.query))
        elif pieces[0] == "datasets" and "resolve" in pieces:
            self.resolve("/".join(pieces[1:3]), pieces[4], "/".join(pieces[5:]))
        else:
            self.answer(404)

    def allowed(self, name: str) -> Repo | None:
        repo = self.server_state.repos.get(name)
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if repo is None or (repo.token and repo.token != given and not repo.gated):
            self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return None
        if repo.gated and repo.token != given:
            self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
            return None
        return repo

    def api(self, pieces: list[str], query: dict[str, list[str]]) -> None:
        state = self.server_state
        name = "/".join(pieces[:2])
        if self.allowed(name) is None or self.refuse(state.fault("api")):
            return
        kind = pieces[2] if len(pieces) > 2 else "revision"
        revision = "/".join(pieces[3:]) or None
        repo = state.repo_at(name, revision)
        if repo is None:
            self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
        elif kind == "revision":
            siblings = [{"rfilename": path} for path in repo.files]
            self.answer_json({"id": name, "sha": repo.commit, "cardData": repo.card, "siblings": siblings})
        else:
            self.tree(name, repo, int(query.get("cursor", ["0"])[0]))

    def tree(self, name: str, repo: Repo, start: int) -> None:
        entries: list[dict[str, object]] = [
            {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
            for folder in sorted({path.rpartition("/")[0] for path in repo.files} - {""})
        ]
        for path, data in sorted(repo.files.items()):
            entry: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
            if not path.endswith((".md", ".txt", ".json")):
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 134}
            entries.append(entry)
        headers = {}
        if start + PAGE < len(entries):
            url = f"{self.server_state.hub_address}/api/datasets/{name}/tree/{repo.commit}"
            headers["Link"] = f'<{url}?recursive=true&cursor={start + PAGE}>; rel="next"'
        self.answer_json(entries[start : start + PAGE], **headers)

    def resolve(self, name: str, revision: str, path: str) -> None:
        if self.allowed(name) is None:
            return
        repo = self.server_state.repo_at(name, revision)
        if repo is None or path not in repo.files:
            self.answer(404, X_Error_Code="EntryNotFound")
            return
        data = repo.files[path]
        commit = {"X_Repo_Commit": repo.commit}
        if path.endswith((".md", ".txt", ".json")):
            # what git itself keeps comes from the hub, under git's hash
            self.answer(200, data, ETag=f'"{git_sha1(data)}"', **commit)
            return
        sha256 = hashlib.sha256(data).hexdigest()
        location = f"{self.server_state.content_address}/{name}/{repo.commit}/{path}?signature=x"
        linked = {"X_Linked_ETag": f'"{sha256}"', "X_Linked_Size": str(len(data))}
        self.answer(302, b"", Location=location, ETag='"not-this-one"', **linked, **commit)


class _Content(_Handler):
    def do_GET(self) -> None:
        state = self.server_state
        if self.headers.get("Authorization"):
            state.tokens_seen_by_content.append(self.headers["Authorization"])
        pieces = unquote(urlsplit(self.path).path).strip("/").split("/")
        name, commit, path = "/".join(pieces[:2]), pieces[2], "/".join(pieces[3:])
        repo = state.repo_at(name, commit)
        assert repo is not None
        data = repo.files[path]
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        state.content.append((path, first, 0))
        fault = state.fault(path)
        if self.refuse(fault):
            return
        body = data[first:]
        if fault == "corrupt":
            body = body[:-1] + bytes([body[-1] ^ 1])
        if fault == "short":
            body = body[: len(body) // 2]
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        if fault == "hang":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            state.hanging.set()
            state.release.wait()
            self.close_connection = True
            return
        self.wfile.write(body)


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A hub and its content network, until the block ends."""
    state = HubServer()
    servers = []
    for kind in (_Hub, _Content):
        handler = type(kind.__name__, (kind,), {"server_state": state})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        servers.append((server, thread))
    addresses = [f"http://127.0.0.1:{server.server_address[1]}" for server, _ in servers]
    state.hub_address, state.content_address = addresses
    try:
        yield state
    finally:
        state.release.set()
        for server, thread in servers:
            server.shutdown()
            server.server_close()
            thread.join()
