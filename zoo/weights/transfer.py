"""One file from one place, resumed where it was interrupted.

The bytes go to ``NAME.part``; ``NAME.part.json`` says which version of which URL they are of.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import requests

from zoo.weights import cache, host, hub
from zoo.weights.errors import WeightsError
from zoo.weights.host import BrokenError, RefusedError, Retry
from zoo.weights.location import Location, without_secrets
from zoo.weights.sniff import HEAD, impostor

_PROGRESS = 1 << 16  # bytes by which a try must get further than any before it to count as progress


@dataclass(frozen=True)
class Version:
    """Which bytes a ``.part`` file holds: those of one version of the file at one URL, as shown."""

    url: str
    etag: str | None = None
    modified: str | None = None
    size: int | None = None

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` takes: a weak ETag does not promise the same bytes."""
        return self.modified if not self.etag or self.etag.startswith("W/") else self.etag

    def continues(self, url: str, promised: Sequence[Location]) -> bool:
        """Whether a transfer from this URL can go on where these bytes end."""
        if self.url == url and self.validator:
            return True
        # Another host, or one that names no version: only a hash can tell that the pieces fit.
        return self.size is not None and any(location.digest for location in promised)

    @staticmethod
    def of(part: Path) -> Version | None:
        """The record beside a part; None where there is none or it cannot be read."""
        try:
            return Version(**json.loads(cache.beside(part, ".json").read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None


class Transfer:
    """Brings one location's file to a ``.part`` path, whole but not yet verified.

    Args:
        source: where from.
        part: where to.
        promised: what the file must be: one of these.
        retry: see there.
        attempts: gains a line for each failed try that another follows.
        update: is told how far the transfer is: bytes ``completed``, bytes in ``total`` or None.

    Attributes:
        resumed: whether the part holds bytes of more than one answer.
        linked: size and SHA-256 that the Hub states.
    """

    def __init__(
        self,
        source: Location,
        part: Path,
        promised: Sequence[Location],
        retry: Retry,
        attempts: list[str],
        update: Callable[..., None],
    ) -> None:
        self.source, self.part, self.promised = source, part, promised
        self.retry, self.attempts, self.update = retry, attempts, update
        self.resumed = False
        self.linked = Location(source.url, sha256="")
        self._xet = True

    def run(self) -> None:
        """Tries until the part is as long as it should be.

        Raises:
            RefusedError: the location is given up; the part may hold bytes worth keeping.
            WeightsError: the disk is full.
        """
        failures, furthest = 0, cache.held_bytes(self.part)
        while True:
            try:
                return self._download() if self.source.remote else self._copy()
            except BrokenError as error:
                size = cache.held_bytes(self.part)
                fruitful = size >= furthest + _PROGRESS and not error.fruitless
                failures = 1 if fruitful else failures + 1
                furthest = max(furthest, size)
                if failures >= self.retry.tries:
                    raise RefusedError(f"{error}; given up after {failures} tries") from error
                if error.after and error.after > self.retry.longest:
                    raise RefusedError(f"{error}, which is too long") from error
                self.attempts.append(f"{self.source.shown}: {error}")
                self.retry.wait(failures, error.after)

    def _copy(self) -> None:
        forget(self.part)
        path = Path(self.source.url).expanduser()
        try:
            file = path.open("rb")
        except OSError as error:
            raise RefusedError(error.strerror or str(error)) from error
        with file:
            size = file.seek(0, 2)
            file.seek(0)
            self._check_offer(file.read(HEAD), size)
            file.seek(0)
            if digest := hub.blob_hash(path):  # what is named by its hash does not change
                self.linked = Location(self.source.url, sha256=digest)
                with suppress(OSError):  # on another disk, or one without links
                    os.link(path, self.part)
                    return self.update(completed=size, total=size)
            self._save(iter(lambda: file.read(host.BLOCK), b""), 0, size)

    def _download(self) -> None:
        held, offset = Version.of(self.part), cache.held_bytes(self.part)
        if not offset or not held or not held.continues(self.source.shown, self.promised):
            held, offset = None, 0
        self.resumed = offset > 0
        if held and offset == held.size:  # killed between the last byte and the final name
            return
        headers = {"Range": f"bytes={offset}-"} if held else {}
        if held and held.url == self.source.shown and held.validator:
            headers["If-Range"] = held.validator
        try:
            with host.ask(self.source, headers, self.retry) as response:
                self._receive(response, held, offset)
        except BrokenError as error:
            if held and str(error).startswith("416"):
                forget(self.part)
            raise

    def _receive(self, response: requests.Response, held: Version | None, offset: int) -> None:
        self.linked = host.linked(response)
        digests = [location.digest for location in self.promised if location.digest]
        if self.linked.sha256 and digests and not self.linked.sha256.startswith(tuple(digests)):
            raise RefusedError(f"offers sha256 {self.linked.sha256}, not {' or '.join(digests)}")
        commit = hub.commit_on_xet(response) if self.source.hub and self._xet else None
        if commit and response.status_code == 200:
            self._check_size(self.linked.size)
            response.close()
            return self._by_xet(commit)
        body = host.pieces(response, self.retry)
        if response.status_code == 206:
            return self._save(body, offset, self._check_range(response, held, offset))

        self.resumed = False
        total = host.length(response)
        head = b""
        while len(head) < HEAD and (piece := next(body, b"")):
            head += piece
        self._check_offer(head, total, response.url)
        if total is None and "chunked" not in response.headers.get("Transfer-Encoding", ""):
            raise RefusedError("states no length, so that nothing tells when the file is whole")
        etag, modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
        version = Version(self.source.shown, etag, modified, total)
        self._save(itertools.chain([head], body), 0, total, version)

    def _by_xet(self, commit: str) -> None:
        """By the Hub's client; where that fails, over HTTPS after all."""
        self.resumed, self._xet = False, False
        size = self.linked.size
        forget(self.part)
        self.update(completed=0, total=size)
        try:
            with _room(self.part, size or 0):
                return hub.download(self.source, commit, self.part, self.update)
        except WeightsError:
            raise
        except Exception as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            self.attempts.append(f"{self.source.shown}: by Xet: {reason}; going on over HTTPS")
        self._download()

    def _check_offer(self, head: bytes, size: int | None, url: str | None = None) -> None:
        if what := impostor(head):
            elsewhere = f" from {without_secrets(url)}" if url and url != self.source.http else ""
            raise RefusedError(f"sends {what}{elsewhere}")
        self._check_size(size)

    def _check_size(self, size: int | None) -> None:
        for stated in (self.promised, [self.linked]):
            sizes = {each.size for each in stated if each.size}
            if sizes and size is not None and size not in sizes:
                expected = " or ".join(map(str, sorted(sizes)))
                raise RefusedError(f"offers {size} bytes, not {expected}")

    def _check_range(self, response: requests.Response, held: Version | None, offset: int) -> int:
        stated = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18}|\*)", stated)
        if not held:
            raise RefusedError(f"answers with {stated or 'a part'} of the file, unasked")
        total = held.size if not match or match[2] == "*" else int(match[2])
        if not match or int(match[1]) != offset or total is None:
            forget(self.part)
            raise BrokenError(f"answers bytes from {offset} with {stated!r}: starting over")
        etag = response.headers.get("ETag", held.etag)
        if total != (held.size or total) or (held.url == self.source.shown and etag != held.etag):
            forget(self.part)
            raise BrokenError("the file changed between two tries: starting over")
        return total

    def _save(
        self, body: Iterator[bytes], offset: int, total: int | None, version: Version | None = None
    ) -> None:
        got, sizes = offset, [location.size or 0 for location in self.promised]
        limit = total or max(sizes)
        if not offset:  # it may be a second name of a file in the Hub's cache
            self.part.unlink(missing_ok=True)
        with (
            _room(self.part, limit - offset),
            self.part.open("ab" if offset else "wb") as file,
        ):
            if version:  # after the old bytes are gone, before the first new one
                cache.write(cache.beside(self.part, ".json"), json.dumps(asdict(version)))
            self.update(completed=offset, total=total)  # not counted in the speed
            try:
                for piece in body:
                    got += len(piece)
                    if limit and got > limit:
                        raise RefusedError(f"sends more than {limit} bytes")
                    file.write(piece)
                    self.update(completed=got, total=total)
                if total and got < total:
                    raise BrokenError("connection dropped")
                if not self.part.is_file():
                    raise BrokenError("somebody removed the unfinished file")
            except BrokenError as error:
                where = f"{error} at {got} of {total or 'unknown'} bytes"
                raise BrokenError(where, fruitless=error.fruitless) from error


def forget(part: Path) -> None:
    """Drops an unfinished file and its record."""
    part.unlink(missing_ok=True)
    cache.beside(part, ".json").unlink(missing_ok=True)


@contextmanager
def _room(part: Path, needed: int) -> Iterator[None]:
    """Turns a full disk, foreseen or met, into one clear line."""
    try:
        if shutil.disk_usage(part.parent).free < needed:
            raise OSError(errno.ENOSPC, "foreseen")
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        free = shutil.disk_usage(part.parent).free
        raise WeightsError(
            f"no room for {part.stem}: {needed:,} bytes needed, {free:,} free in {part.parent}; "
            "free some space or set FCOS_ZOO_HOME to a folder on another disk"
        ) from error
