"""A Hub on 127.0.0.1 that the real client talks to: repositories, commits, LFS, access rights, a CDN, and faults on demand.

What it answers, and with which headers, is what huggingface_hub 1.20 to 2.4 read. The CDN is the host name "localhost", so that a
test sees what the client sends to another host.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

WRITE, READ, STRANGER, NOBODY = "hf_write0123456789", "hf_read0123456789", "hf_stranger0123456789", ""
"""Tokens: of the organisation's writer, of its reader, of someone else, and none."""

ORG = "street-lab"
_LFS = (".safetensors", ".jpg", ".png", ".bin")


@dataclass
class File:
    """A file of a commit."""

    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_id


@dataclass
class Repo:
    """A repository: its commits, oldest first, each with all of its files."""

    private: bool = False
    gated: bool = False
    commits: list[tuple[str, dict[str, File]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    def commit(self, changes: dict[str, File | None]) -> str:
        """Add or replace files; None deletes one."""
        old = self.commits[-1][1] if self.commits else {}
        files = {path: file for path, file in {**old, **changes}.items() if file is not None}
        text = json.dumps([len(self.commits), {path: file.etag for path, file in sorted(files.items())}])
        self.commits.append((hashlib.sha1(text.encode()).hexdigest(), files))
        return self.head

    def at(self, revision: str) -> tuple[str, dict[str, File]] | None:
        oid = self.head if revision == "main" else self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit[0] == oid), None)


@dataclass
class Request:
    """What a client sent."""

    host: str
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of a method for a path that has `part` in it."""

    method: str
    part: str
    times: int = 1_000_000
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    change: Callable[[bytes], bytes] = lambda body: body
    drop_after: int | None = None
    """Close the connection after that many bytes of the body."""
    pause: float = 0.0
    """Seconds before the body."""
    trickle: float = 0.0
    """Seconds between pieces of the body."""
    after: bool = False
    """Do what was asked first, and then answer wrongly."""


class Hub:
    """The server's state. Use as a context manager."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.closing = threading.Event()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.cdn = f"http://localhost:{self.port}"

    def __enter__(self) -> "Hub":
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *args) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, name: str, files: dict[str, bytes], **rights: bool) -> str:
        """Put files into a repository, made if it is not there; gives the commit."""
        repo = self.repos.setdefault(name, Repo(**rights))
        return repo.commit({path: File(data, path.endswith(_LFS)) for path, data in files.items()})

    def asked(self, method: str = "", part: str = "") -> list[Request]:
        """The requests of a method for a path that has `part` in it."""
        return [r for r in self.requests if method in ("", r.method) and part in r.path]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_GET

    def _handle(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        self.payload = self._read_body()
        host = self.headers.get("Host", "").partition(":")[0]
        hub.requests.append(Request(host, self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        self.fault = next((f for f in hub.faults if f.times and f.method == self.command and f.part in path), None)
        if self.fault:
            self.fault.times -= 1
            if self.fault.status and not self.fault.after:
                return self._fail()
        if host == "localhost":
            return self._cdn(path)
        for method, pattern, action in _ROUTES:
            if self.command in method.split("|") and (match := re.fullmatch(pattern, path)):
                return action(self, *match.groups())
        self._error(404, "", "No such page")

    def _fail(self) -> None:
        assert self.fault
        self._send(self.fault.status or 500, b"the fault that the test asked for", self.fault.headers)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    # answers

    def _json(self, value, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self._send(status, body, {"Content-Type": "application/json", "X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        fault = self.fault
        headers = {"Content-Length": str(len(body)), **headers}
        if fault and not fault.status:
            headers, body = {**headers, **fault.headers}, fault.change(body)
            headers["Content-Length"] = str(len(body))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self._send_body(body, fault)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client gave up, as some tests want

    def _send_body(self, body: bytes, fault: Fault | None) -> None:
        if fault and fault.pause:
            self.hub.closing.wait(fault.pause)
        if fault and fault.trickle:
            for start in range(0, len(body), 1 << 16):
                self.wfile.write(body[start : start + (1 << 16)])
                self.hub.closing.wait(fault.trickle)
        elif fault and fault.drop_after is not None:
            self.wfile.write(body[: fault.drop_after])
            self.close_connection = True
        else:
            self.wfile.write(body)

    # rights

    @property
    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _repo(self, name: str, *, write: bool = False, file: bool = False) -> Repo | None:
        """The repository if the token may see it; else None, and the refusal is sent."""
        repo = self.hub.repos.get(name)
        if self._token not in (WRITE, READ, STRANGER, NOBODY):
            self._error(401, "", "Invalid username or password.")
        elif repo is None or (repo.private and self._token not in (WRITE, READ)):
            self._error(404 if self._token else 401, "RepoNotFound", "Repository not found")
        elif file and repo.gated and self._token not in (WRITE, READ):
            self._error(401, "GatedRepo", f"Access to model {name} is restricted.")
        elif write and self._token != WRITE:
            self._error(403, "", "You don't have the rights to write to this repository.")
        else:
            return repo
        return None

    # routes

    def _whoami(self) -> None:
        if self._token not in (WRITE, READ, STRANGER):
            return self._error(401, "", "Invalid username or password.")
        self._json({"name": "someone", "type": "user", "orgs": [{"name": ORG}], "auth": {"accessToken": {"role": "write"}}})

    def _create(self) -> None:
        request = json.loads(self.payload)
        name = f"{request['organization']}/{request['name']}"
        if self._token != WRITE:
            return self._error(403 if self._token else 401, "", "You don't have the rights to create a model.")
        if name in self.hub.repos:
            return self._json({"error": "exists", "url": f"{self.hub.endpoint}/{name}"}, 409)
        private = request.get("private", False) or request.get("visibility") == "private"
        self.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
        self._json({"url": f"{self.hub.endpoint}/{name}"})

    def _validate_yaml(self) -> None:
        content = json.loads(self.payload)["content"]
        errors = [] if content.startswith("---\n") else [{"message": "no metadata"}]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _preupload(self, name: str, revision: str) -> None:
        if repo := self._repo(name, write=True):
            _, files = repo.at(revision) or ("", {})
            answer = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(_LFS) else "regular",
                    "shouldIgnore": False,
                    "oid": files[f["path"]].etag if f["path"] in files else None,
                }
                for f in json.loads(self.payload)["files"]
            ]
            self._json({"files": answer})

    def _batch(self, name: str) -> None:
        if self._repo(name, write=True):
            objects = []
            for wanted in json.loads(self.payload)["objects"]:
                upload = {"upload": {"href": f"{self.hub.cdn}/upload/{wanted['oid']}"}}
                objects.append({**wanted, **({} if wanted["oid"] in self.hub.uploads else {"actions": upload})})
            self._json({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, revision: str) -> None:
        if not (repo := self._repo(name, write=True)):
            return
        lines = [json.loads(line) for line in self.payload.splitlines()]
        header, changes = lines[0]["value"], {}
        if header.get("parentCommit") not in (None, repo.head):
            return self._error(412, "", "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                changes[value["path"]] = None
                continue
            lfs = line["key"] == "lfsFile"
            data = self.hub.uploads[value["oid"]] if lfs else base64.b64decode(value["content"])
            changes[value["path"]] = File(data, lfs)
        oid = repo.commit(changes)
        if self.fault and self.fault.status:
            return self._fail()
        self._json({"commitUrl": f"{self.hub.endpoint}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    def _tag(self, name: str, revision: str) -> None:
        if repo := self._repo(name, write=True):
            repo.tags[json.loads(self.payload)["tag"]] = (repo.at(revision) or ("", {}))[0]
            self._json({})

    def _info(self, name: str, revision: str | None) -> None:
        if not (repo := self._repo(name)):
            return
        if not (commit := repo.at(revision or "main")):
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = []
        for path, file in commit[1].items():
            entry = {"rfilename": path, "size": len(file.data), "blobId": file.git_id}
            if file.lfs:
                entry["lfs"] = {"size": len(file.data), "sha256": file.sha256, "pointerSize": 130}
            siblings.append(entry)
        self._json({"id": name, "sha": commit[0], "private": repo.private, "gated": repo.gated, "siblings": siblings})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        if not (repo := self._repo(name, file=True)):
            return
        if not (commit := repo.at(revision)):
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if path not in commit[1]:
            return self._error(404, "EntryNotFound", "Entry not found")
        file = commit[1][path]
        headers = {"X-Repo-Commit": commit[0], "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if not file.lfs:
            return self._send(200, file.data, headers)
        linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))}
        self._send(302, b"", {**headers, **linked, "Location": f"{self.hub.cdn}/{name}/{commit[0]}/{path}"})

    def _cdn(self, path: str) -> None:
        if self.command == "PUT":
            data = self.payload
            self.hub.uploads[path.rpartition("/")[2]] = data
            return self._send(200, b"", {})
        org, name, oid, path = path.removeprefix("/").split("/", 3)
        commit = self.hub.repos[f"{org}/{name}"].at(oid)
        assert commit
        file, start = commit[1][path], 0
        headers = {"ETag": f'"{file.sha256}"', "Accept-Ranges": "bytes"}
        if range_ := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(range_[1])
            headers["Content-Range"] = f"bytes {start}-{len(file.data) - 1}/{len(file.data)}"
        self._send(206 if start else 200, file.data[start:], headers)


_NAME = r"([^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", "/api/whoami-v2", _Handler._whoami),
    ("POST", "/api/repos/create", _Handler._create),
    ("POST", "/api/validate-yaml", _Handler._validate_yaml),
    ("POST", f"/api/models/{_NAME}/preupload/(.+)", _Handler._preupload),
    ("POST", f"/api/models/{_NAME}/commit/(.+)", _Handler._commit),
    ("POST", f"/api/models/{_NAME}/tag/(.+)", _Handler._tag),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler._batch),
    ("GET", f"/api/models/{_NAME}(?:/revision/(.+))?", _Handler._info),
    ("GET|HEAD", f"/{_NAME}/resolve/([^/]+)/(.+)", _Handler._resolve),
]
