"""A local Hugging Face Hub: serves files as the Hub does, and accepts uploads.

A large file's address redirects to its bytes on another host, with SHA-256, size and commit in the
headers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from faulty_server import FaultyServer, Handler

COMMIT = "c0ffee" + "0" * 34


class HubHandler(Handler):
    server: HubServer

    def do_GET(self) -> None:  # noqa: N802
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization")))
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        if match:
            self._resolve(f"{match[1]}/{match[2]}")
        else:
            super().do_GET()

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:  # noqa: N802
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization")))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._allowed():
            return self.answer(401, {})
        for pattern, answer in _API.items():
            if match := re.fullmatch(pattern, self.path):
                return self._say(answer(self.server, match.groups(), body))
        self.answer(404, {})

    do_PUT = do_POST  # noqa: N815

    def _allowed(self) -> bool:
        signed = self.path.startswith("/lfs/")  # an upload's address is a secret itself
        return signed or self.server.token in (None, (self.headers["Authorization"] or "")[7:])

    def _say(self, content: object) -> None:
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _resolve(self, name: str) -> None:
        facts = {"X-Repo-Commit": COMMIT}
        if not self._allowed():
            return self.answer(401, {"X-Error-Code": "GatedRepo"})
        if name not in self.server.files:
            return self.answer(404, facts | {"X-Error-Code": "EntryNotFound"})
        digest = self.server.files[name]
        size = len(self.server.resources[f"cdn/{digest}"].body)
        facts |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(size)}
        elsewhere = self.server.url(f"cdn/{digest}").replace("127.0.0.1", "localhost")
        self.answer(302, facts | {"Location": elsewhere})


class HubServer(FaultyServer):
    """``server.store("owner/repo/w.pth", body)`` serves ``hf://owner/repo/w.pth``.

    Attributes:
        files: the SHA-256 of each file.
        asked: method, path and authorization of each request.
        token: without which nothing is served, None for a public Hub.
    """

    handler = HubHandler

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, str] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.token: str | None = None

    def store(self, name: str, body: bytes, *faults: Any) -> None:
        """A file, whose bytes are sent with these faults."""
        digest = hashlib.sha256(body).hexdigest()
        self.files[name] = digest
        self.add(f"cdn/{digest}", body, *faults)


def _preupload(server: HubServer, names: tuple[str, ...], body: bytes) -> object:
    """Large files are to be uploaded by LFS, small ones within the commit."""
    modes = {True: "lfs", False: "regular"}
    files = [
        {"path": each["path"], "uploadMode": modes[each["size"] > 10_000], "shouldIgnore": False}
        for each in json.loads(body)["files"]
    ]
    return {"files": files}


def _batch(server: HubServer, names: tuple[str, ...], body: bytes) -> object:
    objects = [
        each | {"actions": {"upload": {"href": server.url(f"lfs/{each['oid']}")}}}
        for each in json.loads(body)["objects"]
    ]
    return {"transfer": "basic", "objects": objects}


def _upload(server: HubServer, names: tuple[str, ...], body: bytes) -> object:
    if hashlib.sha256(body).hexdigest() == names[0]:  # else the commit will find nothing
        server.add(f"cdn/{names[0]}", body)
    return {}


def _commit(server: HubServer, names: tuple[str, ...], body: bytes) -> object:
    for line in body.splitlines():
        step = json.loads(line)
        file = step["value"]
        if step["key"] == "file":
            server.store(f"{names[0]}/{file['path']}", base64.b64decode(file["content"]))
        elif step["key"] == "lfsFile":
            assert f"cdn/{file['oid']}" in server.resources
            server.files[f"{names[0]}/{file['path']}"] = file["oid"]
    return {"commitOid": COMMIT, "commitUrl": server.url(f"{names[0]}/commit/{COMMIT}")}


_API: dict[str, Callable[[HubServer, tuple[str, ...], bytes], object]] = {
    "/api/repos/create": lambda server, names, body: {"url": server.url("me/mine")},
    "/api/validate-yaml": lambda server, names, body: {"errors": [], "warnings": []},
    "/api/(?:models|datasets)/(.+)/preupload/main": _preupload,
    "/.+/info/lfs/objects/batch": _batch,
    "/lfs/(.+)": _upload,
    "/api/(?:models|datasets)/(.+)/commit/main": _commit,
}
