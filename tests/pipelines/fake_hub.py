"""A Hub on localhost: the part of its HTTP protocol that publishing and loading a model uses.

    with FakeHub() as hub: subprocess.run(..., env=os.environ | hub.environment(cache))

It keeps one revision of each repository, in memory, and asks for the token it gave out.
"""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

USER, TOKEN = "gardener", "hf_local"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repositories: dict[str, dict[str, bytes]]
    private: set[str]

    def do_POST(self):
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid credentials"}, code="Unauthorized")
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if self.path == "/api/repos/move":
            return self._answer(404, {})
        name, action = re.fullmatch(
            r"/api/models/(.+?)/(preupload|commit)/main", unquote(self.path)
        ).groups()
        if action == "preupload":
            files = [f["path"] for f in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]
            return self._answer(200, {"files": modes})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.repositories[name][line["value"]["path"]] = content
        sha = self._sha(name)
        return self._answer(
            200, {"success": True, "commitOid": sha, "commitUrl": f"{self._url(name)}/commit/{sha}"}
        )

    def do_GET(self):
        path = unquote(self.path.partition("?")[0])
        if path == "/api/whoami-v2":
            return self._answer(200, {"name": USER, "type": "user", "orgs": []})
        if match := re.fullmatch(
            r"/api/models/([^/]+/[^/]+)(/revision/[^/]+|/tree/[^/]+)?(/.+)?", path
        ):
            name, rest, folder = match.groups()
            if not self._visible(name):
                return self._answer(404, {}, code="RepoNotFound")
            files = self.repositories[name]
            if rest and rest.startswith("/tree"):
                entries = [
                    {"type": "file", "path": p, "size": len(c), "oid": _oid(c)}
                    for p, c in files.items()
                    if folder is None or p.startswith(f"{folder[1:]}/")
                ]
                if folder and not entries:
                    return self._answer(404, {}, code="EntryNotFound", commit=self._sha(name))
                return self._answer(200, entries)
            siblings = [{"rfilename": p} for p in files]
            info = {"id": name, "modelId": name, "sha": self._sha(name), "siblings": siblings}
            return self._answer(200, info | {"private": name in self.private, "tags": []})
        if match := re.fullmatch(r"/(.+?/.+?)/resolve/[^/]+/(.+)", path):
            name, file = match.groups()
            if not self._visible(name):
                return self._answer(404, {}, code="RepoNotFound")
            if file not in self.repositories[name]:
                return self._answer(404, {}, code="EntryNotFound", commit=self._sha(name))
            content = self.repositories[name][file]
            return self._send(200, content, ETag=f'"{_oid(content)}"', commit=self._sha(name))
        return self._answer(404, {})

    do_HEAD = do_GET

    def _create(self, request):
        name = f"{request.get('organization') or USER}/{request['name']}"
        status = 409 if name in self.repositories else 200
        self.repositories.setdefault(name, {})
        if request.get("private") or request.get("visibility") == "private":
            self.private.add(name)
        self._answer(status, {"url": self._url(name), "name": name, "id": name})

    def _visible(self, name):
        owner = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        return name in self.repositories and (owner or name not in self.private)

    def _sha(self, name):
        files = sorted(self.repositories[name].items())
        return hashlib.sha1(b"".join(p.encode() + c for p, c in files)).hexdigest()

    def _url(self, name):
        return f"http://{self.headers['Host']}/{name}"

    def _body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status, value, **headers):
        self._send(status, json.dumps(value).encode(), **headers)

    def _send(self, status, content, *, code=None, commit=None, **headers):
        self.send_response(status)
        named = {"X-Error-Code": code, "X-Repo-Commit": commit, "Content-Length": len(content)}
        for key, value in {**named, **headers}.items():
            if value is not None:
                self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


def _oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class FakeHub:
    """A server on a free port; `repositories` maps owner/name to {path: bytes}."""

    def __enter__(self):
        handler = type("Bound", (Handler,), {"repositories": {}, "private": set()})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.repositories, self.private = handler.repositories, handler.private
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def environment(self, cache: Path):
        """What a process must be started with: huggingface_hub reads these when it is imported."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
