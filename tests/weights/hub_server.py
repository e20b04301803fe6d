"""A Hugging Face Hub of its own: serves files as the Hub does, and takes uploads.

A large file's address redirects to its bytes on another host, with SHA-256, size and commit in the
headers; with ``xet``, a client that can is told to fetch them from a Xet store.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable
from typing import Any

from faulty_server import FaultyServer, Handler

COMMIT = "c0ffee" + "0" * 34
_CHUNK = 1 << 16  # bytes of a Xet chunk, of which a file is put together


class HubHandler(Handler):
    server: HubServer

    def do_GET(self) -> None:  # noqa: N802
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization")))
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        if match:
            self._resolve(f"{match[1]}/{match[2]}")
        elif self.path.startswith(("/xet/", "/token")):
            self._xet()
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
        if self.server.xet:
            route = self.server.url("token")
            facts |= {"X-Xet-Hash": digest, "X-Xet-Refresh-Route": route}
        elsewhere = self.server.url(f"cdn/{digest}").replace("127.0.0.1", "localhost")
        self.answer(302, facts | {"Location": elsewhere})

    def _xet(self) -> None:
        what, digest = self.path.split("/")[-2:]
        if digest == "token":
            facts = {"Access-Token": "t", "Token-Expiration": int(time.time()) + 3600}
            facts |= {"Cas-Url": self.server.url("xet")}
            return self.answer(200, {f"X-Xet-{name}": value for name, value in facts.items()})
        if self.server.xet_fault or "/v2/" in self.path:  # clients go on to ask for /v1/
            return self.answer(self.server.xet_fault or 404, {})
        body = self.server.xet_bytes or self.server.resources[f"cdn/{digest}"].body
        wrapped = b"".join(_chunk(body[at : at + _CHUNK]) for at in range(0, len(body), _CHUNK))
        if what == "xorb":
            span = f"bytes 0-{len(wrapped) - 1}/{len(wrapped)}"
            return self.answer(206, {"Content-Range": span}, wrapped)
        chunks = {"start": 0, "end": -(-len(body) // _CHUNK)}
        place = {"url": self.server.url(f"xet/xorb/{digest}")}
        place |= {"range": chunks, "url_range": {"start": 0, "end": len(wrapped) - 1}}
        terms = [{"hash": digest, "unpacked_length": len(body), "range": chunks}]
        content = {"offset_into_first_range": 0, "terms": terms, "fetch_info": {digest: [place]}}
        self._say(content)


class HubServer(FaultyServer):
    """``server.store("owner/repo/w.pth", body)`` serves ``hf://owner/repo/w.pth``.

    Attributes:
        files: the SHA-256 of each file.
        asked: method, path and authorization of each request.
        token: without which nothing is served, None for a public Hub.
        xet_fault: the status that the Xet store answers with.
        xet_bytes: what it sends in place of the file.
    """

    handler = HubHandler

    def __init__(self, xet: bool = False) -> None:
        super().__init__()
        self.files: dict[str, str] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.token: str | None = None
        self.xet, self.xet_fault, self.xet_bytes = xet, 0, b""

    def store(self, name: str, body: bytes, *faults: Any) -> None:
        """A file, whose bytes are sent with these faults."""
        digest = hashlib.sha256(body).hexdigest()
        self.files[name] = digest
        self.add(f"cdn/{digest}", body, *faults)

    def paths(self, start: str) -> list[str]:
        """The paths asked for that start so."""
        return [path for _, path, _ in self.asked if path.startswith(start)]


def _chunk(body: bytes) -> bytes:
    """A Xet chunk, not compressed: version, length, scheme and length of the content, content."""
    length = len(body).to_bytes(3, "little")
    return bytes(1) + length + bytes(1) + length + body


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
    "/api/models/(.+)/preupload/main": _preupload,
    "/.+/info/lfs/objects/batch": _batch,
    "/lfs/(.+)": _upload,
    "/api/models/(.+)/commit/main": _commit,
}
