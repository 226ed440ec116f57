"""A stand-in for a hub: the part of its HTTP interface that publishing and fetching use; not a test module.

Repositories live in memory, each a list of commits. Weights go up by git-lfs' basic transfer, everything else inside
the commit. It checks the token, serves one commit atomically, and fails where a test tells it to.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_test_token"


@dataclass
class Commit:
    oid: str
    files: dict[str, bytes]
    message: str = ""


@dataclass
class Repository:
    private: bool
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Commit | None:
        wanted = self.commits[-1].oid if revision in ("main", "HEAD") else self.tags.get(revision, revision)
        return next((one for one in self.commits if one.oid == wanted), None)


class Hub:
    """What a test sees of the server: its `address`, `repositories`, `requests`, and the failures to come."""

    def __init__(self) -> None:
        self.address = ""
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}  # what lfs has received
        self.requests: list[tuple[str, str]] = []
        self.fail: list[tuple[str, str, int]] = []  # method, part of the path, status: each for all such requests
        self.before_commit = lambda name: None  # called as a commit arrives
        self.lock = threading.Lock()

    def commit(self, name: str, files: dict[str, bytes | None], *, message: str = "by hand") -> str:
        """Adds a commit that sets or (None) removes files."""
        repository = self.repositories[name]
        held = dict(repository.commits[-1].files) if repository.commits else {}
        for path, content in files.items():
            held.pop(path, None)
            if content is not None:
                held[path] = content
        digest = hashlib.sha1(f"{name} {len(repository.commits)} {sorted(held)}".encode())
        for path in sorted(held):
            digest.update(held[path])
        repository.commits.append(Commit(digest.hexdigest(), held, message))
        return digest.hexdigest()

    def sent(self) -> bytes:
        """Everything that any commit of any repository holds."""
        return b"\n".join(
            content for one in self.repositories.values() for commit in one.commits for content in commit.files.values()
        )


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a free port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.requests.append((method, path))
            for wanted, part, status in self.hub.fail:
                if wanted == method and part in path:
                    return self._json({"error": "the test wants it so"}, status=status)
            if (method, path) == ("POST", "/api/repos/create"):
                return self._create(json.loads(body))
            if path == "/api/validate-yaml":
                return self._json({"errors": [], "warnings": []})
            if path == "/api/models":
                return self._models()
            if method == "PUT" and path.startswith("/lfs/"):
                self.hub.large[path.removeprefix("/lfs/")] = body
                return self._json({})
            if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
                return self._batch(found[1], json.loads(body))
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|tag)/(.+)", path):
                return self._write(found[1], found[2], found[3], body)
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?", path):
                return self._info(found[1], found[2] or "main")
            if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                return self._file(found[1], found[2], found[3], head=method == "HEAD")
            return self._json({"error": f"no such place: {path}"}, status=404)

    def _body(self) -> bytes:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _json(self, value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        for name, told in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, told)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _missing(self, code: str) -> None:
        self._json({"error": code}, status=404, headers={"X-Error-Code": code})

    def _create(self, wanted: dict) -> None:
        if not self._authorised():
            return self._json({"error": "Invalid credentials"}, status=401)
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        if name in self.hub.repositories:
            return self._json(
                {"error": "You already created this model repo", "url": f"{self.hub.address}/{name}"}, status=409
            )
        private = wanted.get("private", wanted.get("visibility") == "private")
        self.hub.repositories[name] = Repository(bool(private))
        self.hub.commit(name, {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return self._json({"url": f"{self.hub.address}/{name}", "id": name})

    def _seen(self, name: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        return None if repository is None or (repository.private and not self._authorised()) else repository

    def _models(self) -> None:
        author = parse_qs(urlsplit(self.path).query).get("author", [""])[0]
        found = []
        for name, repository in self.hub.repositories.items():
            if name.startswith(f"{author}/") and self._seen(name) is not None:
                card = repository.commits[-1].files.get("README.md", b"").decode()
                tags = re.findall(r"^- (peterrec[a-z-]*)$", card, flags=re.M)
                modified = "2026-11-20T10:00:00.000Z"
                told = {
                    "id": name,
                    "modelId": name,
                    "tags": tags,
                    "private": repository.private,
                    "lastModified": modified,
                }
                found.append(told)
        self._json(found)

    def _info(self, name: str, revision: str) -> None:
        repository = self._seen(name)
        if repository is None:
            return self._missing("RepoNotFound")
        commit = repository.at(revision)
        if commit is None:
            return self._missing("RevisionNotFound")
        files = [{"rfilename": path, "size": len(content)} for path, content in sorted(commit.files.items())]
        told = {
            "id": name,
            "modelId": name,
            "sha": commit.oid,
            "private": repository.private,
            "tags": [],
            "siblings": files,
        }
        self._json(told)

    def _file(self, name: str, revision: str, path: str, *, head: bool) -> None:
        repository = self._seen(name)
        commit = None if repository is None else repository.at(revision)
        if commit is None:
            return self._missing("RepoNotFound" if repository is None else "RevisionNotFound")
        if path not in commit.files:
            return self._missing("EntryNotFound")
        content = commit.files[path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit.oid)
        self.end_headers()
        if not head:
            self.wfile.write(content)

    def _batch(self, name: str, wanted: dict) -> None:
        if not self._authorised():
            return self._json({"error": "Invalid credentials"}, status=401)
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}"}}}
            for one in wanted["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _write(self, name: str, action: str, revision: str, body: bytes) -> None:
        repository = self._seen(name)
        if repository is None:
            return self._missing("RepoNotFound")
        if not self._authorised():
            return self._json({"error": "You may not write"}, status=403)
        if action == "preupload":
            files = json.loads(body)["files"]
            mode = {True: "lfs", False: "regular"}
            told = [
                {"path": one["path"], "uploadMode": mode[one["path"].endswith(".safetensors")], "shouldIgnore": False}
                for one in files
            ]
            return self._json({"files": told})
        if action == "tag":
            repository.tags[json.loads(body)["tag"]] = revision
            return self._json({})
        self.hub.before_commit(name)
        lines = [json.loads(line) for line in body.decode().splitlines() if line]
        header = next(line["value"] for line in lines if line["key"] == "header")
        parent = header.get("parentCommit")
        if parent and parent != repository.commits[-1].oid:
            return self._json({"error": "A commit has happened since. Please refresh and try again."}, status=412)
        files: dict[str, bytes | None] = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                files[value["path"]] = None
        oid = self.hub.commit(name, files, message=header["summary"])
        return self._json({"commitUrl": f"{self.hub.address}/{name}/commit/{oid}", "commitOid": oid})
