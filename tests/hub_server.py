"""A Hugging Face Hub on loopback: the HTTP that huggingface_hub 2.4 speaks to look at and download a model.

Repositories are folders. Answers `/api/models/ID`, `/revision/REV` and `/tree/REV` under it, and HEAD and GET (with Range)
of `/ID/resolve/REV/FILE`, with the Hub's headers. Some ids misbehave on purpose; see `HubServer`.
"""

import hashlib
import json
import re
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

API = re.compile(r"/api/models/(?P<repo>[^/]+(/[^/]+)?)(/(?P<what>revision|tree)/(?P<rev>[^/]+))?")
FILE = re.compile(r"/(?P<repo>[^/]+(/[^/]+)?)/resolve/(?P<rev>[^/]+)/(?P<file>.+)")


class HubServer:
    """Serves repositories while its `with` block lasts; afterwards nothing listens on its port.

    Attributes:
        repos: id -> folder with its files.
        failures: id -> (HTTP status, X-Error-Code or None) answered instead of its metadata.
        file_failures: id -> HTTP status answered instead of its files' content.
        silent: ids whose requests are taken and never answered.
        unsized: ids whose metadata does not say how big the files are.
        pages: id -> HTML answered to everything, as the login page of a public network does.
        requests: "METHOD path" of everything asked so far.
        url: what to set HF_ENDPOINT to.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Path] = {}
        self.failures: dict[str, tuple[int, str | None]] = {}
        self.file_failures: dict[str, int] = {}
        self.silent: set[str] = set()
        self.unsized: set[str] = set()
        self.pages: dict[str, str] = {}
        self.requests: list[str] = []
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def commit_of(self, repo: str) -> str:
        """A commit hash that changes with the content, as Git's does."""
        digest = hashlib.sha1(repo.encode())
        for path in self.files_of(repo):
            digest.update(path.name.encode() + _etag(path).encode())
        return digest.hexdigest()

    def files_of(self, repo: str) -> list[Path]:
        return sorted(path for path in self.repos[repo].rglob("*") if path.is_file())


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        match = API.fullmatch(path) or FILE.fullmatch(path)
        if match is None:
            self._reply(HTTPStatus.NOT_FOUND)
            return
        parts = match.groupdict()
        repo = parts["repo"]
        if repo in self.hub.silent:
            self.hub.closing.wait(60)
            self.close_connection = True
        elif repo in self.hub.pages:
            self._reply(HTTPStatus.OK, self.hub.pages[repo].encode(), {"Content-Type": "text/html"})
        elif repo in self.hub.failures:
            self._refuse(*self.hub.failures[repo])
        elif repo not in self.hub.repos:  # the Hub answers 401, lest it tell which private ids exist
            self._refuse(HTTPStatus.UNAUTHORIZED, "RepoNotFound")
        elif parts.get("rev") not in (None, "main", self.hub.commit_of(repo)):
            self._refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound")
        elif "file" in parts:
            self._send_file(repo, parts["file"])
        elif parts["what"] == "tree":
            self._send_json(self._tree(repo))
        else:
            self._send_json(self._info(repo))

    def do_HEAD(self) -> None:
        self.do_GET()

    def _info(self, repo: str) -> dict[str, Any]:
        root = self.hub.repos[repo]
        siblings = [
            {"rfilename": path.relative_to(root).as_posix(), "size": path.stat().st_size, "blobId": _etag(path)}
            for path in self.hub.files_of(repo)
        ]
        if repo in self.hub.unsized:
            siblings = [{"rfilename": sibling["rfilename"]} for sibling in siblings]
        return {"id": repo, "sha": self.hub.commit_of(repo), "private": False, "tags": [], "siblings": siblings}

    def _tree(self, repo: str) -> list[dict[str, Any]]:
        root = self.hub.repos[repo]
        return [
            {
                "type": "file",
                "oid": _etag(path),
                "size": path.stat().st_size,
                "path": path.relative_to(root).as_posix(),
            }
            for path in self.hub.files_of(repo)
        ]

    def _send_file(self, repo: str, name: str) -> None:
        path = self.hub.repos[repo] / name
        commit = {"X-Repo-Commit": self.hub.commit_of(repo)}
        if not path.is_file():
            self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound", commit)
            return
        if self.command == "GET" and repo in self.hub.file_failures:
            self._refuse(self.hub.file_failures[repo], None)
            return
        body = path.read_bytes()
        headers = {**commit, "ETag": f'"{_etag(path)}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._reply(HTTPStatus.OK, body, headers)
            return
        first, last = int(wanted[1]), int(wanted[2] or len(body) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
        self._reply(HTTPStatus.PARTIAL_CONTENT, body[first : last + 1], headers)

    def _send_json(self, value: object) -> None:
        self._reply(HTTPStatus.OK, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, error_code: str | None, headers: dict[str, str] | None = None) -> None:
        code = {"X-Error-Code": error_code} if error_code else {}
        self._reply(status, b'{"error": "no"}', {**code, **(headers or {})})

    def _reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
