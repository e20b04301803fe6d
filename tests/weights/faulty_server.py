"""A local HTTP server with faults on demand.

A fault is a function of the request's handler and the requested resource; it answers instead of
the correct :func:`good`. Each GET takes the next fault; after the last, all answers are correct.
"""

from __future__ import annotations

import hashlib
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Resource:
    body: bytes
    faults: deque[Fault] = field(default_factory=deque)
    etag: bool = True
    pause: float = 0.0  # seconds between blocks of 64 KiB
    asked: list[dict[str, str]] = field(default_factory=list)  # the headers of each GET

    @property
    def tag(self) -> str:
        return f'"{hashlib.md5(self.body).hexdigest()}"'

    @property
    def ranges(self) -> list[str | None]:
        """The ``Range`` of each GET."""
        return [headers.get("Range") for headers in self.asked]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def do_GET(self) -> None:
        resource = self.server.resources.get(self.path.lstrip("/"))
        if resource is None:
            return status(404)(self, Resource(b""))
        with self.server.lock:
            resource.asked.append(dict(self.headers))
            fault = resource.faults.popleft() if resource.faults else good
        try:
            fault(self, resource)
        except ConnectionError:  # the client has left
            self.close_connection = True

    def answer(self, code: int, headers: dict[str, Any], body: bytes = b"") -> None:
        """An answer; its ``Content-Length`` is the body's unless the headers say otherwise."""
        self.send_response(code)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Says nothing."""


Fault = Callable[[Handler, Resource], None]


class FaultyServer(ThreadingHTTPServer):
    """``with FaultyServer() as server: server.add("w.pth", body, drop(9)); ...``."""

    daemon_threads = True
    request_queue_size = 64
    handler: type[Handler] = Handler

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.handler)
        self.resources: dict[str, Resource] = {}
        self.lock = threading.Lock()

    def add(self, name: str, body: bytes, *faults: Fault, **options: Any) -> Resource:
        self.resources[name] = Resource(body, deque(faults), **options)
        return self.resources[name]

    def url(self, name: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # clients may leave
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def __enter__(self) -> FaultyServer:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self.server_close()


def good(
    handler: Handler,
    resource: Resource,
    cut: int | None = None,
    ranges: bool = True,
    versions: bool = True,
    more: int = 0,
) -> None:
    """Honours ``Range`` and ``If-Range``; the options are for the faults below."""
    headers: dict[str, Any] = {"ETag": resource.tag} if resource.etag else {}
    body, code = resource.body, 200
    match = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    current = not versions or handler.headers.get("If-Range", resource.tag) == resource.tag
    if match and ranges and current:
        start = int(match[1])
        if start >= len(resource.body):
            return handler.answer(416, {"Content-Range": f"bytes */{len(resource.body)}"})
        body, code = resource.body[start:], 206
        headers["Content-Range"] = f"bytes {start}-{len(resource.body) - 1}/{len(resource.body)}"
    handler.answer(code, headers | {"Content-Length": len(body) + more})
    sent = body[:cut]
    for at in range(0, len(sent), 1 << 16):
        handler.wfile.write(sent[at : at + (1 << 16)])
        time.sleep(resource.pause)
    if cut is not None or more:
        handler.hang_up()


def drop(after: int) -> Fault:
    """Hangs up after so many bytes of the body."""
    return lambda handler, resource: good(handler, resource, cut=after)


def ignore_range(after: int | None = None) -> Fault:
    """Answers 200 with the whole file whatever part was asked for."""
    return lambda handler, resource: good(handler, resource, cut=after, ranges=False)


def ignore_if_range(handler: Handler, resource: Resource) -> None:
    """Answers with the part asked for, whatever version of the file it is of."""
    good(handler, resource, versions=False)


def longer(handler: Handler, resource: Resource) -> None:
    """States a length of 100 bytes more than there are."""
    good(handler, resource, more=100)


def shorter(handler: Handler, resource: Resource) -> None:
    """States half the length, and sends that."""
    handler.answer(200, {}, resource.body[: len(resource.body) // 2])


def change(body: bytes, then: Fault = good) -> Fault:
    """Another file under the same URL from now on."""

    def fault(handler: Handler, resource: Resource) -> None:
        resource.body = body
        then(handler, resource)

    return fault


def say(body: bytes, content_type: str = "text/html") -> Fault:
    """Some other content, with status 200."""
    return lambda handler, resource: handler.answer(200, {"Content-Type": content_type}, body)


def status(code: int, **headers: Any) -> Fault:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, resource: handler.answer(code, named, b"<html>Sorry</html>")


def redirect(location: str, **headers: Any) -> Fault:
    return status(302, Location=location, **headers)


def redirect_loop(handler: Handler, resource: Resource) -> None:
    resource.faults.append(redirect_loop)
    redirect(handler.path)(handler, resource)


def silent(handler: Handler, resource: Resource) -> None:
    """Headers, some of the body, then nothing for longer than the client waits."""
    handler.answer(200, {"Content-Length": len(resource.body)}, resource.body[:2000])
    time.sleep(0.5)
    handler.hang_up()


def wrong_bytes(handler: Handler, resource: Resource) -> None:
    """The right length, but the last byte is another."""
    handler.answer(200, {}, resource.body[:-1] + bytes([resource.body[-1] ^ 1]))


def wrong_range(handler: Handler, resource: Resource) -> None:
    """Another part than asked for."""
    total = len(resource.body)
    handler.answer(206, {"Content-Range": f"bytes 0-9/{total}"}, resource.body[:10])


def no_length(handler: Handler, resource: Resource) -> None:
    """Ends the body by hanging up, so that a whole file and a dropped one look alike."""
    handler.answer(200, {"Content-Length": None, "Connection": "close"}, resource.body)
    handler.hang_up()


def chunked(after: int | None = None) -> Fault:
    """Chunked transfer encoding, which states no length; ``after``: no terminator after so much."""

    def fault(handler: Handler, resource: Resource) -> None:
        handler.answer(200, {"Content-Length": None, "Transfer-Encoding": "chunked"})
        body = resource.body[:after]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
        if after is None:
            handler.wfile.write(b"0\r\n\r\n")
        else:
            handler.hang_up()

    return fault


def encoded(handler: Handler, resource: Resource) -> None:
    """Compresses though asked not to."""
    handler.answer(200, {"Content-Encoding": "gzip"}, b"\x1f\x8b" + resource.body)
