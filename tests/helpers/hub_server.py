"""A small Hugging Face hub on this machine, for tests without network.

`huggingface_hub`, `datasets` and `transformers` talk to it over HTTP as to the real
hub, in a process that is started with the variables of `hub_environment`.
"""

import json
import re
import shutil
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

NAME = r"(?P<name>[^/]+(/[^/]+)?)"
RESOLVE = re.compile(
    rf"/((?P<kind>datasets)/)?{NAME}/(?P<action>resolve)/(?P<revision>[^/]+)/(?P<path>.+)"
)
API = re.compile(
    rf"/api/(?P<kind>models|datasets)/{NAME}"
    r"(/(?P<action>revision|tree|preupload|commit|branch)"
    r"/(?P<revision>[^/]+)(/(?P<path>.+))?)?"
)


@contextmanager
def hub_server(folder: Path) -> Iterator[str]:
    """Serve `folder/datasets/OWNER/NAME` and `folder/models/OWNER/NAME`; gives the URL.

    The folder is the branch `main`, another branch is a folder `NAME@BRANCH` beside it.
    A commit is called by a hash of its files; earlier ones are served as well. Uploads
    change the folders. They need a token, which may be any, and so do repositories
    that are made private.
    """
    server = _Server(folder)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def hub_environment(url: str, home: Path) -> dict[str, str]:
    """Variables for a process that uses the hub at `url`, with its caches in `home`."""
    return {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_test",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # `datasets` also asks a host "datasets-server.127.0.0.1". As its proxy, the
        # server refuses at once, without a look-up of the name in the network.
        "http_proxy": url,
        "https_proxy": url,
        "no_proxy": "127.0.0.1",
    }


class _HubError(Exception):
    """An answer with an error status, and the code by which clients tell its cause."""

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status = status
        self.code = code


class _Repository:
    """The files in a repository's folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        self.hashes = {
            path: sha1(b"blob %d\0" % len(content) + content).hexdigest()
            for path, content in self.files.items()
        }
        self.commit = sha1(json.dumps(self.hashes).encode()).hexdigest()

    def tree(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """Entries in a folder, and in its folders if `recursive`."""
        entries: dict[str, dict[str, Any]] = {}
        for path, content in self.files.items():
            for parent in map(str, list(PurePosixPath(path).parents)[:-1]):
                entries[parent] = {"type": "directory", "path": parent, "oid": ""}
            about = {"oid": self.hashes[path], "size": len(content)}
            entries[path] = {"type": "file", "path": path, **about}
        if folder and folder not in entries:
            raise _HubError(404, f"{folder} does not exist", "EntryNotFound")
        start = f"{folder}/" if folder else ""
        return [
            entry
            for path, entry in entries.items()
            if path.startswith(start) and (recursive or "/" not in path[len(start) :])
        ]

    def upload(self, path: str) -> dict[str, Any]:
        """How to send a file: all of them inside the commit, without large storage."""
        mode = {"uploadMode": "regular", "shouldIgnore": False}
        return {"path": path, "oid": self.hashes.get(path), **mode}

    def change(self, key: str, value: dict[str, str]) -> None:
        """Carry out one line of a commit."""
        if key == "file":
            path = self.folder / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b64decode(value["content"]))
        elif key == "deletedFile":
            (self.folder / value["path"]).unlink()
        elif key != "header":
            raise _HubError(400, f"{key} is not supported here")


class _Server(ThreadingHTTPServer):
    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.private: set[Path] = set()
        self.earlier: dict[tuple[Path, str], _Repository] = {}


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        # An unread body would be taken for the next request of the connection.
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            self._answer(urlsplit(self.path))
        except _HubError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": str(error)}
            self._send(b"{}", error.status, headers)

    do_HEAD = do_POST = do_GET  # noqa: N815

    def _answer(self, url: SplitResult) -> None:
        match = RESOLVE.fullmatch(url.path) or API.fullmatch(url.path)
        if self.command == "POST" and not self._has_token():
            raise _HubError(401, "Invalid username or password.")
        if url.path == "/api/repos/create":
            self._create(json.loads(self.body))
        elif url.path == "/api/validate-yaml":
            self._send_json({"errors": [], "warnings": []})
        elif match and not url.netloc:
            parts = {k: unquote(value or "") for k, value in match.groupdict().items()}
            recursive = "recursive=true" in url.query.lower()
            self._answer_about(**parts, recursive=recursive)
        else:
            raise _HubError(404, "Sorry, we can't find the page you are looking for.")

    def _create(self, wanted: dict[str, str]) -> None:
        kind, owner = wanted.get("type", "model"), wanted["organization"] or "tester"
        folder = self.server.folder / f"{kind}s" / owner / wanted["name"]
        if folder.is_dir():
            self._send_json({"url": self._url(folder)}, 409)
            return
        folder.mkdir(parents=True)
        if wanted.get("visibility") == "private":
            self.server.private.add(folder)
        self._send_json({"url": self._url(folder)})

    def _answer_about(
        self,
        kind: str,
        name: str,
        action: str,
        revision: str,
        path: str,
        recursive: bool,
    ) -> None:
        folder = self.server.folder / (kind or "models") / name
        is_hidden = folder in self.server.private and not self._has_token()
        if "/" not in name or not folder.is_dir() or is_hidden:
            # As the hub does, which does not tell strangers what exists.
            status = 404 if self._has_token() else 401
            raise _HubError(status, "Repository not found", "RepoNotFound")
        if action == "branch":
            branch = folder.with_name(f"{folder.name}@{revision}")
            if branch.is_dir():
                raise _HubError(409, "Reference already exists")
            shutil.copytree(folder, branch)
            self._send_json({})
            return
        repository = self._at(folder, revision)
        if action == "resolve":
            self._send_file(repository, path)
        elif action == "tree":
            self._send_json(repository.tree(path, recursive))
        elif action == "preupload":
            paths = [file["path"] for file in json.loads(self.body)["files"]]
            self._send_json({"files": [repository.upload(path) for path in paths]})
        elif action == "commit":
            self.server.earlier[folder, repository.commit] = repository
            for line in self.body.splitlines():
                repository.change(**json.loads(line))
            oid = _Repository(repository.folder).commit
            url = f"{self._url(folder)}/commit/{oid}"
            self._send_json({"commitOid": oid, "commitUrl": url})
        else:
            files = [{"rfilename": path} for path in repository.files]
            about = {"id": name, "sha": repository.commit, "tags": []}
            self._send_json({**about, "siblings": files})

    def _at(self, folder: Path, revision: str) -> _Repository:
        """The files of a revision: a branch, its last commit, or an earlier one."""
        branches = {"main": folder, "": folder}
        for path in folder.parent.glob(f"{folder.name}@*"):
            branches[path.name.partition("@")[2]] = path
        for branch, path in branches.items():
            repository = _Repository(path)
            if revision in (branch, repository.commit):
                return repository
        if (folder, revision) not in self.server.earlier:
            raise _HubError(404, "Invalid rev id", "RevisionNotFound")
        return self.server.earlier[folder, revision]

    def _has_token(self) -> bool:
        return "Authorization" in self.headers

    def _url(self, folder: Path) -> str:
        path = folder.relative_to(self.server.folder).as_posix()
        return f"http://{self.headers['Host']}/{path.removeprefix('models/')}"

    def _send_file(self, repository: _Repository, path: str) -> None:
        if path not in repository.files:
            raise _HubError(404, "Entry not found", "EntryNotFound")
        content, status = repository.files[path], 200
        etag = f'"{repository.hashes[path]}"'
        headers = {"X-Repo-Commit": repository.commit, "ETag": etag}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span:
            size, first, last = len(content), int(span[1]), int(span[2] or len(content))
            content, status = content[first : last + 1], 206
            last = first + len(content) - 1
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        self._send(content, status, headers)

    def _send_json(self, value: object, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, {})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
