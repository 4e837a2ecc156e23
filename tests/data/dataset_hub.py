"""A Hub on localhost that serves data sets: the part of its protocol that reading them uses."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlparse

REVISION = "0123456789abcdef0123456789abcdef01234567"


class DatasetHub:
    """Serves the files (path -> bytes) of each public data set by its name."""

    def __init__(self, sets: dict[str, dict[str, bytes]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                url = urlparse(self.path)
                path, query = unquote(url.path), parse_qs(url.query)
                name = next((name for name in sets if f"/datasets/{name}" in path), "")
                files = sets.get(name, {})
                api, here = f"/api/datasets/{name}", f"/datasets/{name}/resolve/"
                if path.startswith(f"{api}/tree/"):
                    under = path.removeprefix(f"{api}/tree/").partition("/")[2]
                    deep = query.get("recursive", ["false"])[0].lower() == "true"
                    return self.answer(tree(files, under, deep))
                if path == api or path.startswith(f"{api}/revision/"):
                    siblings = [{"rfilename": p} for p in files]
                    return self.answer(
                        {"id": name, "sha": REVISION, "siblings": siblings, "tags": []}
                    )
                if path.startswith(here):
                    file = path.removeprefix(here).partition("/")[2]
                    if file not in files:
                        return self.answer({}, 404, {"X-Error-Code": "EntryNotFound"})
                    return self.send_file(files, file)
                self.answer({}, 404, {"X-Error-Code": "RepoNotFound"})

            do_HEAD = do_POST = do_GET

            def send_file(self, files, path):
                data = files[path]
                headers = {"ETag": f'"{entry(files, path)["oid"]}"', "X-Repo-Commit": REVISION}
                code = 200
                if span := self.headers.get("Range"):
                    first, _, last = span.removeprefix("bytes=").partition("-")
                    end = min(int(last or len(data) - 1), len(data) - 1)
                    headers["Content-Range"] = f"bytes {first}-{end}/{len(data)}"
                    data, code = data[int(first) : end + 1], 206
                self.reply(code, data, headers)

            def answer(self, value, code=200, headers=None):
                self.reply(code, json.dumps(value).encode(), headers or {})

            def reply(self, code, data, headers):
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                for key, value in {**headers, "X-Repo-Commit": REVISION}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "DatasetHub":
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def entry(files: dict[str, bytes], path: str) -> dict:
    if path not in files:
        return {"type": "directory", "path": path, "size": 0, "oid": "0" * 40}
    oid = hashlib.sha1(files[path]).hexdigest()
    return {"type": "file", "path": path, "size": len(files[path]), "oid": oid}


def tree(files: dict[str, bytes], under: str, deep: bool) -> list[dict]:
    paths = set(files)
    for file in files:
        parts = file.split("/")
        paths |= {"/".join(parts[:n]) for n in range(1, len(parts))}
    start = f"{under}/" if under else ""
    inside = [p for p in sorted(paths) if p.startswith(start)]
    return [entry(files, p) for p in inside if deep or "/" not in p.removeprefix(start)]
