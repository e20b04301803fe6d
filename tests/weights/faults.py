"""Every fault of a host that the tests provoke, and the outcome that they expect.

``python tests/weights/faults.py`` provokes them all and writes ``reports/downloader_faults.md``.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import faulty_server as host
from faulty_server import FaultyServer

from zoo import https
from zoo.download import fetch
from zoo.sources import FileSource, WeightsError

REPORT = Path(__file__).parents[2] / "reports" / "downloader_faults.md"
BODY = b"\x80\x02" + random.Random(0).randbytes(299_998)
OTHER = b"\x80\x02" + random.Random(1).randbytes(299_998)
SHA256 = hashlib.sha256(BODY).hexdigest()
SIZE = len(BODY)


@dataclass(frozen=True)
class Fault:
    """What the host does, GET by GET, and the expected outcome.

    ``requests`` are the first bytes that the GETs ask for; ``reason`` is the line in the error, or
    None where the file arrives in spite of the fault.
    """

    name: str
    faults: tuple[host.Fault, ...]
    requests: tuple[int, ...]
    reason: str | None = None
    promise: dict[str, object] = field(default_factory=lambda: {"size": SIZE, "sha256": SHA256})
    body: bytes = BODY
    etag: bool = True


def _page(text: str) -> bytes:
    return f"<!DOCTYPE html><html><body>{text}</body></html>".encode()


_LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{SHA256}\nsize {SIZE}\n".encode()
_LOG_IN = _page("<form><input name='user'><input type='password'></form>")
_WRONG = "sha256 HASH is not that of the expected file; moved to w.pth.bad"
_TWICE = (host.drop(100_000),) * 2

FAULTS = [
    Fault("drops the connection mid-body, twice", _TWICE, (0, 100_000, 200_000)),
    Fault("drops it before the first byte", (host.drop(0),), (0, 0)),
    Fault(
        "drops it at the same byte every time, ignoring ranges",
        (host.ignore_range(100_000),) * 9,
        (0, 100_000, 100_000),
        "connection dropped at 100000 of 300000 bytes; given up after 3 attempts",
    ),
    Fault("ignores ranges", (host.drop(100_000), host.ignore_range()), (0, 100_000)),
    Fault("answers with another range", (host.drop(100_000), host.wrong_range), (0, 100_000, 0)),
    Fault(
        "answers a range that was not asked for",
        (host.wrong_range,),
        (0,),
        "answers with bytes 0-9/300000 of the file though asked for all of it",
    ),
    Fault("refuses the range (416)", (host.drop(100_000), host.status(416)), (0, 100_000, 0)),
    Fault(
        "changes the file between tries",
        (host.drop(100_000), host.change(OTHER)),
        (0, 100_000),
        promise={},
        body=OTHER,
    ),
    Fault(
        "changes the file between tries, ignores If-Range",
        (host.drop(100_000), host.change(OTHER, host.ignore_if_range)),
        (0, 100_000, 0),
        promise={},
        body=OTHER,
    ),
    Fault(
        "changes the file between tries, names no version",
        (host.change(OTHER, host.drop(100_000)), host.change(BODY)),
        (0, 0),
        etag=False,
    ),
    Fault("states too great a length", (host.longer,) * 9, (0,), "offers 300100 bytes, not 300000"),
    Fault(
        "states too great a length, the true one unknown",
        (host.longer,) * 9,
        (0, 300_000, 0),
        promise={"sha256": SHA256},
        reason="connection dropped at 300000 of 300100 bytes; given up after 3 attempts",
    ),
    Fault("states too small a length", (host.shorter,), (0,), "offers 150000 bytes, not 300000"),
    Fault(
        "states too small a length, the true one unknown",
        (host.shorter,),
        (0,),
        _WRONG,
        promise={"sha256": SHA256},
    ),
    Fault(
        "states no length",
        (host.no_length,),
        (0,),
        "states no length, so a dropped connection would go unnoticed",
    ),
    Fault("sends it in chunks", (host.chunked(),), (0,)),
    Fault(
        "sends more than there is, in chunks",
        (host.change(BODY + BODY, host.chunked()), host.change(BODY)),
        (0,),
        "sends more than 300000 bytes",
    ),
    Fault("sends it in chunks and drops", (host.chunked(100_000),), (0, 0)),
    Fault(
        "compresses it though asked not to",
        (host.encoded,),
        (0,),
        "sends the file gzip-encoded though asked not to",
    ),
    Fault("sends wrong bytes of the right length", (host.wrong_bytes,), (0,), _WRONG),
    Fault("sends an HTML page with 200", (host.say(_page("Oops")),), (0,), "sends an HTML page"),
    Fault("sends a log-in page with 200", (host.say(_LOG_IN),), (0,), "sends a log-in page (HTML)"),
    Fault(
        "sends an HTML page when asked for the rest",
        (host.drop(100_000), host.say(_page("Oops"))),
        (0, 100_000),
        "sends an HTML page",
    ),
    Fault(
        "sends a Git LFS pointer with 200",
        (host.say(_LFS, "text/plain"),),
        (0,),
        "sends a Git LFS pointer, not the file it points to",
    ),
    Fault(
        "sends a JSON message with 200", (host.say(b'{"error": 1}'),), (0,), "sends a JSON message"
    ),
    Fault("sends nothing with 200", (host.say(b""),), (0,), "sends an empty file"),
    Fault("403", (host.status(403),), (0,), "403 Forbidden"),
    Fault("404", (host.status(404),), (0,), "404 Not Found"),
    Fault("500, then 200", (host.status(500),), (0, 0)),
    Fault(
        "503 every time",
        (host.status(503),) * 9,
        (0, 0, 0),
        "503 Service Unavailable; given up after 3 attempts",
    ),
    Fault("429 with Retry-After, then 200", (host.status(429, Retry_After=7),), (0, 0)),
    Fault("429 with a malformed Retry-After", (host.status(429, Retry_After="\u00b3"),), (0, 0)),
    Fault(
        "429 that asks for an hour",
        (host.status(429, Retry_After=3600),),
        (0,),
        "429 Too Many Requests, retry after 3600 s, which is too long",
    ),
    Fault("falls silent mid-body", (host.silent,), (0, 0), promise={"size": SIZE}, etag=False),
    Fault("redirects in a loop", (host.redirect_loop,), (0,) * 31, "redirects in a loop"),
    *(
        Fault(f"redirects to `{address}`", (host.redirect(address),), (0,), reason)
        for address, reason in {
            "https://[": "redirects to a malformed address (Invalid IPv6 URL)",
            "http://a:99999/": "redirects to a malformed address (Port out of range 0-65535)",
            "file:///etc/passwd": "No connection adapters were found for 'file:///etc/passwd'",
        }.items()
    ),
]


def provoke(fault: Fault, folder: Path) -> tuple[str | None, tuple[int, ...], list[float]]:
    """Download from a host with the fault: the error's reason, first bytes asked for, waits."""
    waits: list[float] = []
    settings = {"TRIES": 3, "READ_TIMEOUT": 0.2, "_sleep": waits.append}
    with FaultyServer() as server, patch.multiple(https, **settings):
        resource = server.add("w.pth", BODY, *fault.faults, etag=fault.etag)
        source = FileSource(server.url("w.pth"), **fault.promise)  # type: ignore[arg-type]
        try:
            path = fetch("w.pth", [source], folder=folder, progress=False)
            reason = None if path.read_bytes() == fault.body else "a bad file!"
        except WeightsError as error:
            line = next(line for line in str(error).split("\n") if source.url in line)
            reason = line.removeprefix(f"  {source.url}: ").replace(f"{folder}/", "")
            reason = re.sub("[0-9a-f]{64}", "HASH", reason)
    starts = tuple(int((each or "bytes=0-")[6:-1]) for each in resource.ranges)
    return reason, starts, waits


def report() -> str:
    """The report, measured now."""
    rows = []
    for fault in FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            reason, starts, _ = provoke(fault, Path(folder))
            left = sorted(path.name for path in Path(folder).iterdir() if path.name[0] != ".")
        came = f"refused: {reason}" if reason else "the right file"
        asked = f"0, {len(starts)} times" if len(starts) > 5 else ", ".join(map(str, starts))
        rows.append(f"| {fault.name} | {came} | {asked} | {', '.join(left) or 'nothing'} |")
    return HEADER + "\n".join(rows) + "\n" + FOOTER


HEADER = """# What a download survives

Each row is one fault of a host, provoked by a local server (`tests/weights/faulty_server.py`) while
`zoo.download.fetch` asks it for `w.pth`, a file of 300,000 bytes. `python tests/weights/faults.py`
writes this page; `tests/weights/test_faults.py` asserts every row and that a run still writes this
page. Here a download ends after three attempts without progress (five by default); `HASH` stands
for what differs between runs.

`.part` is kept so that the next call can resume the download, `.bad` is a file that was refused,
and `w.pth` exists only when it is complete and verified.

| The host | Outcome | First byte of each request | Left in the cache |
| --- | --- | --- | --- |
"""

FOOTER = """
## Other faults

Other tests of the same folder assert these. Files of the Hugging Face Hub (`hf://`) are downloaded
by `huggingface_hub`, and verified like all others.

| Fault | Outcome |
| --- | --- |
| `kill -9` at random moments of a download, 20 times | the right file or none, each time |
| eight processes ask for one file at a time | one download; all get the right file |
| the disk has too little space for the file | refused before the first byte |
| the disk fills up while writing | refused, with the bytes needed and free |
| any series of drops, ignored ranges, changes and errors | the right bytes |
| the cached file is not the expected one | renamed to `.bad` and downloaded again |
| the record of an unfinished file (`.part.json`) is damaged | the download starts over |
| the host redirects to a malformed address | the next mirror is asked |
| the cache folder cannot be written | refused, with the folder and the remedy |
| the Hub sends wrong bytes | refused |
| a file holds a program (pickle, torch zip, torch legacy, disguised) | refused, never executed |
| a file is truncated | refused, with the file's name |
| a tensor claims more values than the file holds | refused, with the file's name |
| a crafted pickle needs too much memory, or nests too deeply | refused in one line |
"""


if __name__ == "__main__":
    os.environ["NO_PROXY"] = "127.0.0.1"
    REPORT.write_text(report(), "utf-8")
