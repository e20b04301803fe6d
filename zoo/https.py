"""A resumable HTTP download.

The bytes go to ``NAME.part``; ``NAME.part.json`` says which version of which URL they belong to, so
that the next attempt, in this process or another, can ask for the rest (RFC 9110, ``If-Range``).
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import requests
import urllib3

from zoo import cache
from zoo.files import HEAD, describe_non_weights
from zoo.sources import FileSource, SourceError, without_secrets

TRIES = 5  # consecutive attempts without progress after which a source is given up
CONNECT_TIMEOUT = 10.0  # seconds
READ_TIMEOUT = 30.0  # seconds without a byte
LONGEST_WAIT = 60.0  # seconds between two attempts; a host that asks for more is given up
_PROGRESS = 1 << 16  # bytes that an attempt must add to count as progress
_BLOCK = 1 << 18

Update = Callable[..., None]


class _TransientError(Exception):
    """An attempt failed, but another one may succeed, after `wait` seconds if the host says so."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class _Version:
    """The version of a file whose first bytes are in a ``.part`` file."""

    url: str
    validator: str  # a strong ETag or a modification date
    size: int | None

    @staticmethod
    def of(part: Path) -> _Version | None:
        """Read the record; None if there is none or it is damaged."""
        try:
            held = _Version(**json.loads(_record_of(part).read_text("utf-8")))
            valid = re.fullmatch("[!-~]([ -~]*[!-~])?", held.validator)  # valid in a header
        except (OSError, ValueError, TypeError):
            return None
        return held if valid and isinstance(held.size, int | None) else None


class Download:
    """The download of one file to a ``.part``, resumed where an earlier attempt ended.

    Args:
        source: the file's address.
        part: where to write it; afterwards this is the whole file, not yet verified.
        wanted: known sizes and hashes; a file of another size is refused before its bytes arrive.
        update: called with the bytes ``completed`` and in ``total`` (or None).
    """

    def __init__(
        self, source: FileSource, part: Path, wanted: Sequence[FileSource], update: Update
    ) -> None:
        self.source, self.part, self.update = source, part, update
        self.sizes = {each.size for each in wanted if each.size}

    def run(self) -> None:
        """Download until the file is complete.

        Raises:
            SourceError: the source is given up; the part may hold bytes to resume from later.
            WeightsError: the disk is full.
        """
        failures, furthest = 0, cache.size_on_disk(self.part)
        while True:
            try:
                return self._attempt()
            except _TransientError as error:
                size = cache.size_on_disk(self.part)
                failures = 1 if size >= furthest + _PROGRESS else failures + 1
                furthest = max(furthest, size)
                if failures >= TRIES:
                    raise SourceError(f"{error}; given up after {failures} attempts") from error
                wait = error.wait
                if wait is None:
                    wait = min(LONGEST_WAIT, 2.0 ** (failures - 1)) * random.uniform(0.5, 1)
                if wait > LONGEST_WAIT:
                    raise SourceError(f"{error}, which is too long") from error
                _sleep(wait)

    def _attempt(self) -> None:
        held, offset = _Version.of(self.part), cache.size_on_disk(self.part)
        if held is None or held.url != self.source.shown:
            held, offset = None, 0
        if held and offset == held.size:  # interrupted between the last byte and the final name
            return
        headers = {}
        if held and offset:
            headers = {"Range": f"bytes={offset}-", "If-Range": held.validator}
        try:
            response = _get(self.source, headers)
        except _TransientError as error:
            if str(error).startswith("416"):
                discard(self.part)
            raise
        with response:
            if response.status_code == 206:
                if held is None:
                    stated = response.headers.get("Content-Range", "a part")
                    raise SourceError(
                        f"answers with {stated} of the file though asked for all of it"
                    )
                self._check_range(response, held, offset)
                self._save(_body(response), offset, held.size)
            else:
                blocks, total = self._from_start(response)
                self._save(blocks, 0, total)

    def _from_start(self, response: requests.Response) -> tuple[Iterator[bytes], int | None]:
        """Return the blocks of a whole file and its size, None if it is sent in chunks."""
        body = _body(response)
        head = b""
        while len(head) < HEAD and (block := next(body, b"")):
            head += block
        check_head(head)
        total = _number(response.headers.get("Content-Length", ""))
        if self.sizes and total is not None and total not in self.sizes:
            wanted = " or ".join(map(str, sorted(self.sizes)))
            raise SourceError(f"offers {total} bytes, not {wanted}")
        if total is None and "chunked" not in response.headers.get("Transfer-Encoding", ""):
            raise SourceError("states no length, so a dropped connection would go unnoticed")
        discard(self.part)
        if validator := _validator(response):
            with cache.disk_space(self.part, total or 0):
                version = _Version(self.source.shown, validator, total)
                _record_of(self.part).write_text(json.dumps(asdict(version)), "utf-8")
        return chain([head], body), total

    def _check_range(self, response: requests.Response, held: _Version, offset: int) -> None:
        """Raise an error to start over unless the response continues the version in the part."""
        stated = response.headers.get("Content-Range", "")
        match = re.fullmatch(rf"bytes {offset}-[0-9]+/([0-9]{{1,18}}|\*)", stated)
        same_size = match and match[1] in ("*", str(held.size))
        if not same_size or (_validator(response) or held.validator) != held.validator:
            discard(self.part)
            raise _TransientError(f"does not continue at byte {offset} ({stated}): starting over")

    def _save(self, blocks: Iterator[bytes], size: int, total: int | None) -> None:
        """Append blocks to a part of `size` bytes."""
        limit = total or max(self.sizes, default=0)
        with cache.disk_space(self.part, limit - size), self.part.open("ab") as file:
            self.update(completed=size, total=total)
            try:
                for block in blocks:
                    size += len(block)
                    if limit and size > limit:
                        raise SourceError(f"sends more than {limit} bytes")
                    file.write(block)
                    self.update(completed=size, total=total)
                if total and size < total:
                    raise _TransientError("connection dropped")
            except _TransientError as error:
                raise _TransientError(f"{error} at {size} of {total or 'unknown'} bytes") from error


def content_length(source: FileSource) -> int | None:
    """Return the size that a host states for its file, None if it states none."""
    try:
        with _get(source, {}) as response:
            check_head(next(_body(response), b""))
            return _number(response.headers.get("Content-Length", ""))
    except _TransientError as error:
        raise SourceError(str(error)) from error


def discard(part: Path) -> None:
    """Remove an unfinished download and its record."""
    part.unlink(missing_ok=True)
    _record_of(part).unlink(missing_ok=True)


def check_head(head: bytes) -> None:
    """Raise a SourceError if these first bytes are not those of a weights file."""
    if what := describe_non_weights(head):
        raise SourceError(f"sends {what}")


@contextmanager
def _get_errors() -> Iterator[None]:
    """Sort the errors of requests and urllib3 into transient and permanent ones."""
    try:
        yield
    except requests.TooManyRedirects as error:
        raise SourceError("redirects in a loop") from error
    except requests.exceptions.SSLError as error:
        raise SourceError(f"cannot be trusted: {_cause(error)}") from error
    except requests.ConnectTimeout as error:
        raise _TransientError(f"no connection within {CONNECT_TIMEOUT:g} s") from error
    except (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError) as error:
        raise _TransientError(f"no data for {READ_TIMEOUT:g} s") from error
    except requests.ConnectionError as error:
        raise _TransientError(f"no connection: {_cause(error)}") from error
    except requests.RequestException as error:
        raise SourceError(without_secrets(str(error))) from error
    except ValueError as error:  # neither library catches it
        raise SourceError(f"redirects to a malformed address ({error})") from error
    except urllib3.exceptions.HTTPError as error:
        raise _TransientError("connection dropped") from error


def _get(source: FileSource, headers: dict[str, str]) -> requests.Response:
    """Return a successful response (200 or 206), whose body is still to be read."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "fcos-zoo", **headers}
    with _get_errors():
        response = requests.get(
            source.url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT)
        )
    try:
        status = f"{response.status_code} {response.reason}"
        if response.status_code in (408, 416, 425, 429) or response.status_code >= 500:
            wait = _number(response.headers.get("Retry-After", ""))
            raise _TransientError(
                status if wait is None else f"{status}, retry after {wait} s", wait
            )
        if response.status_code not in (200, 206):
            raise SourceError(status)
        if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
            raise SourceError(f"sends the file {encoding}-encoded though asked not to")
    except Exception:
        response.close()
        raise
    return response


def _body(response: requests.Response) -> Iterator[bytes]:
    raw: Any = response.raw
    while True:
        with _get_errors():
            # Not iter_content, which loses the bytes of a block that is cut off.
            block = raw.read1(_BLOCK, decode_content=False)
        if not block:
            return
        yield block


def _validator(response: requests.Response) -> str | None:
    """Return the value for ``If-Range``, but not a weak ETag, which different bytes may share."""
    etag = response.headers.get("ETag", "")
    strong = etag and not etag.startswith("W/")
    return etag if strong else response.headers.get("Last-Modified")


def _cause(error: BaseException) -> str:
    """Return the message of the innermost exception, without addresses."""
    inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
    inner = getattr(error, "reason", None) or inner
    return _cause(inner) if isinstance(inner, BaseException) else str(error)


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _record_of(part: Path) -> Path:
    return cache.sidecar(part, ".json")


_sleep = time.sleep
