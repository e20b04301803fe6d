"""Where a weights file can be had, and in what order the places are tried."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

import platformdirs

from zoo.weights.errors import WeightsError

ARCHIVE = "https://web.archive.org/web/0id_/"
"""Before an address, the Internet Archive's oldest capture of it, as it was sent."""

# Eight or more hex digits before the extension, as torchvision and OpenMMLab name their files;
# eight digits that read as a date of this century are one.
_HASH_IN_NAME = re.compile(r"-(?!20\d{6}\.)([0-9a-f]{8,64})\.[^/]+$")


@dataclass(frozen=True)
class Location:
    """One place that serves, or once served, a weights file.

    Args:
        url: ``http(s)://…``, ``hf://owner/repo[@revision]/file`` or a path.
        size: bytes, where known.
        sha256: the hash in hex, in full or its first digits; a hash in the file's name counts where
            this is None, and ``""`` says that the name's digits are no hash.
        dead: kept as a record, never tried.
        note: why it is dead, or what to know about it.
    """

    url: str
    size: int | None = None
    sha256: str | None = None
    dead: bool = False
    note: str = ""

    @property
    def remote(self) -> bool:
        """Whether the network is needed.

        Raises:
            WeightsError: it is an address of another kind, or none that can be.
        """
        scheme = re.match(r"[a-z][a-z0-9+.-]+(?=://)", self.url, re.IGNORECASE)
        if not scheme:
            return False
        try:
            urlsplit(self.url)
        except ValueError as error:
            raise WeightsError(f"{self.shown} is no address: {error}") from error
        if scheme[0].lower() not in ("http", "https", "hf"):
            raise WeightsError(
                f"{self.shown} is not an address that can be fetched: "
                "give https://, http://, hf://owner/repo/file or a path"
            )
        return True

    @property
    def shown(self) -> str:
        """The address as messages and records have it; see :func:`without_secrets`."""
        return without_secrets(self.url)

    @property
    def archived(self) -> bool:
        """Whether it is a copy that the Internet Archive may hold, or may not."""
        return self.url.startswith(ARCHIVE)

    @property
    def hub(self) -> tuple[str, str, str] | None:
        """Repository, revision and file of a location on the Hugging Face Hub, None elsewhere."""
        if not self.url.lower().startswith("hf://"):
            return None
        match = re.fullmatch(r"(?i:hf)://([^/]+/[^/@]+)(?:@([^/]+))?/(.+)", self.url)
        if not match:
            raise WeightsError(f"{self.shown} is no Hub address: write hf://owner/repo/file")
        return match[1], match[2] or "main", match[3]

    @property
    def http(self) -> str:
        """The URL to ask for; that of the Hub's file for ``hf://``."""
        if not self.hub:
            return self.url
        repo, revision, file = self.hub
        return f"{endpoint()}/{repo}/resolve/{revision}/{quote(file)}"

    @property
    def digest(self) -> str | None:
        """The SHA-256, or its first digits, that the file must have; None where nothing is said."""
        if self.sha256 is not None:
            return self.sha256.lower()
        path = unquote(urlsplit(self.url).path) if self.remote else self.url
        match = _HASH_IN_NAME.search(path)
        return match and match[1]

    def fits(self, size: int, sha256: str) -> bool:
        """Whether a file of this size and hash is what this location promises."""
        return self.size in (None, size) and sha256.startswith(self.digest or "")


def without_secrets(text: str) -> str:
    """A text whose addresses name no user, no password and no query, which may be a signature."""
    text = re.sub(r"(\w://)[^/?#\s]*@", r"\1", text)
    return re.sub(r"(\w://[^\s?#]*)[?#][^\s'\"]*", r"\1", text)


def promises(filename: str, locations: Sequence[Location]) -> list[Location]:
    """What is known of the file: it is the right one if it fits any of these (at least one)."""
    live = [location for location in locations if not location.dead]
    hashed = [location for location in live if location.digest]
    sized = [location for location in live if location.size]
    unhashed = "" if any(location.sha256 == "" for location in live) else None
    return hashed or sized or [Location(filename, sha256=unhashed)]


def sources(filename: str, locations: Sequence[Location]) -> list[Location]:
    """The user's mirrors, then the live locations in the order given."""
    found = [Location(_join(base, filename), sha256="") for base in mirrors()]
    return found + [location for location in locations if not location.dead]


def mirrors() -> list[str]:
    """Base URLs and folders from ``FCOS_ZOO_MIRRORS``, then from each configuration file."""
    listed = os.environ.get("FCOS_ZOO_MIRRORS", "").strip()
    one = os.path.isdir(Path(_path_of(listed)).expanduser())  # its name may have spaces
    bases = [listed] if one else re.split(r"[,\s]+", listed)
    for folder in (Path.cwd(), platformdirs.user_config_path("fcos-zoo")):
        for name in ("zoo.toml", "fcos-zoo.toml"):
            if (folder / name).is_file():
                bases += _mirrors_in(folder / name)
    return list(dict.fromkeys(_path_of(base) for base in bases if base))


def endpoint() -> str:
    """Where the Hugging Face Hub is: ``HF_ENDPOINT``, or else its own address."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Whether ``FCOS_ZOO_OFFLINE`` forbids the network."""
    return os.environ.get("FCOS_ZOO_OFFLINE", "").lower() not in ("", "0", "false", "no")


def _mirrors_in(config: Path) -> list[str]:
    tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        settings = tomllib.loads(config.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{config} is not valid TOML ({error}): correct or remove it") from error
    if unknown := settings.keys() - {"mirrors"}:
        raise WeightsError(
            f"{config}: {', '.join(sorted(unknown))}: no such setting, there is `mirrors` alone"
        )
    bases = settings.get("mirrors", [])
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise WeightsError(
            f'{config}: `mirrors` must be a list of strings, as ["https://host/dir"]'
        )
    return bases


def _path_of(base: str) -> str:
    return url2pathname(urlsplit(base).path) if base.lower().startswith("file://") else base


def _join(base: str, filename: str) -> str:
    if Location(base).remote:
        return f"{base.rstrip('/')}/{quote(filename)}"
    return str(Path(base).expanduser() / filename)
