"""Talking to the hosts of weights: what they may do wrong, and which of it may pass."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTimeError
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import urllib3

from zoo.weights import hub
from zoo.weights.errors import WeightsError
from zoo.weights.location import Location, offline, without_secrets
from zoo.weights.sniff import impostor

BLOCK = 1 << 18


class RefusedError(Exception):
    """The location cannot serve the file; asking again would not help."""


class BrokenError(Exception):
    """This try failed, the next may not.

    Args:
        reason: one line.
        after: seconds that the host asks to wait.
        fruitless: whether the bytes gained don't count as progress.
    """

    def __init__(self, reason: str, after: float | None = None, fruitless: bool = False) -> None:
        super().__init__(reason)
        self.after = after
        self.fruitless = fruitless


@dataclass(frozen=True)
class Retry:
    """How patient a transfer is; times in seconds.

    Args:
        tries: tries in a row without progress before a location is given up.
        backoff: wait before the second try, doubled before each further one, less a random part.
        longest: longest wait; a host that asks for more (``Retry-After``) is given up.
        connect: time-out to connect.
        read: time-out between two bytes.
        answer: time-out for all that comes before the body, redirects included.
        slowest: bytes a second, averaged over ``window``, below which a try is broken off.
        window: see ``slowest``.
        sleep: what waits.
    """

    tries: int = 5
    backoff: float = 1.0
    longest: float = 60.0
    connect: float = 10.0
    read: float = 30.0
    answer: float = 90.0
    slowest: float = 4096.0
    window: float = 20.0
    sleep: Callable[[float], None] = time.sleep

    def wait(self, failures: int, after: float | None) -> None:
        """Sleeps before the next try."""
        backoff = min(self.longest, self.backoff * 2 ** (failures - 1)) * random.uniform(0.5, 1)
        self.sleep(backoff if after is None else after)


@contextmanager
def ask(location: Location, headers: dict[str, str], retry: Retry) -> Iterator[requests.Response]:
    """A successful answer (200 or 206) to a GET of the location, its body still to be read.

    Raises:
        RefusedError, BrokenError: anything else.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": "fcos-zoo", **headers}
    if location.hub and (token := hub.token()):
        headers["Authorization"] = f"Bearer {token}"
    with _sorted_errors(retry):
        response = _answer(location.http, headers, retry)
    with response:
        said = f"{response.status_code} {response.reason}"
        if response.status_code in (408, 416, 425, 429) or response.status_code >= 500:
            after = _seconds(response.headers.get("Retry-After"))
            raise BrokenError(
                said if after is None else f"{said}, retry after {after:.0f} s", after
            )
        if response.status_code not in (200, 206):
            raise RefusedError(said)
        if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
            raise RefusedError(f"sends the file {encoding}-encoded though asked not to")
        yield response


def pieces(response: requests.Response, retry: Retry) -> Iterator[bytes]:
    """The body as it arrives; silence and an endless trickle are broken off."""
    raw: Any = response.raw
    began, got = time.monotonic(), 0
    while True:
        with _sorted_errors(retry):
            # Not iter_content: it waits for a whole block, for hours where bytes trickle.
            piece = raw.read1(BLOCK, decode_content=False)
        if not piece:
            return
        yield piece
        got += len(piece)
        elapsed = time.monotonic() - began
        if elapsed >= retry.window:
            if got < retry.slowest * elapsed:
                raise BrokenError(f"a trickle of under {retry.slowest:g} bytes/s", fruitless=True)
            began, got = time.monotonic(), 0


def length(response: requests.Response) -> int | None:
    """``Content-Length`` of this answer."""
    return _whole_number(response.headers.get("Content-Length", ""))


def linked(response: requests.Response) -> Location:
    """Size and SHA-256 as the Hub states them, on its redirect to the bytes of a large file."""
    for each in (*response.history, response):
        size = _whole_number(each.headers.get("X-Linked-Size", ""))
        etag = each.headers.get("X-Linked-ETag", "")
        if size is not None or etag:
            digest = re.fullmatch('(?:W/)?"?([0-9a-f]{64})"?', etag, re.IGNORECASE)
            return Location(response.url, size=size, sha256=digest[1] if digest else "")
    return Location(response.url, sha256="")


def probe(location: Location, retry: Retry | None = None) -> Location:
    """Asks a host for a file's size and, where it is on the Hub, SHA-256, without fetching it.

    Returns:
        The location with what the host states filled in.

    Raises:
        WeightsError: the host does not serve the file now, or the network may not be used.
    """
    if offline():
        raise WeightsError(f"{location.shown} was not asked: unset FCOS_ZOO_OFFLINE to do so")
    retry = retry or Retry()
    try:
        with ask(location, {}, retry) as response:
            if what := impostor(next(pieces(response, retry), b"")):
                raise RefusedError(f"sends {what}")
            stated = linked(response)
            size = stated.size or length(response) or location.size
            return replace(location, size=size, sha256=stated.sha256 or location.sha256)
    except (RefusedError, BrokenError) as error:
        raise WeightsError(f"{location.shown}: {error}; try another location") from error


def _answer(url: str, headers: dict[str, str], retry: Retry) -> requests.Response:
    """A GET up to the body, in a thread: time-outs between bytes alone let headers trickle on."""
    answer: Future[requests.Response] = Future()

    def get() -> None:
        try:
            timeout = (retry.connect, retry.read)
            answer.set_result(requests.get(url, headers=headers, stream=True, timeout=timeout))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=get, daemon=True).start()
    try:
        return answer.result(retry.answer)
    except NotInTimeError as error:
        answer.add_done_callback(_close)
        raise BrokenError(f"no answer within {retry.answer:g} s") from error


def _close(late: Future[requests.Response]) -> None:
    if not late.exception():
        late.result().close()


@contextmanager
def _sorted_errors(retry: Retry) -> Iterator[None]:
    """Sorts what requests and urllib3 raise into what may pass and what will not."""
    try:
        yield
    except requests.TooManyRedirects as error:
        raise RefusedError("redirects in a loop") from error
    except requests.exceptions.SSLError as error:
        raise RefusedError(f"cannot be trusted: {_innermost(error)}") from error
    except requests.ConnectTimeout as error:
        raise BrokenError(f"no connection within {retry.connect:g} s") from error
    except (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError) as error:
        raise BrokenError(f"silence for {retry.read:g} s") from error
    except requests.ConnectionError as error:
        raise BrokenError(f"no connection: {_innermost(error)}") from error
    except requests.RequestException as error:
        raise RefusedError(without_secrets(str(error))) from error
    except urllib3.exceptions.HTTPError as error:
        raise BrokenError("connection dropped") from error


def _innermost(error: BaseException) -> str:
    """The cause at the bottom of requests' nested exceptions, without their addresses."""
    inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
    inner = getattr(error, "reason", None) or inner
    return _innermost(inner) if isinstance(inner, BaseException) else str(error)


def _whole_number(text: str) -> int | None:
    """A header's number; `str.isdigit` also knows digits that `int` does not."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _seconds(retry_after: str | None) -> float | None:
    """``Retry-After`` as seconds from now: it comes as a number or as a date."""
    if retry_after is None:
        return None
    if (seconds := _whole_number(retry_after.strip())) is not None:
        return float(seconds)
    try:
        then = parsedate_to_datetime(retry_after).astimezone(timezone.utc)
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0.0, (then - datetime.now(timezone.utc)).total_seconds())
