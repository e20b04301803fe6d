"""Where a file can be downloaded, and the order in which its sources are tried."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

import platformdirs
import yaml

# The folder of the installed packages, relative to this file, so that a user's `configs` cannot
# take the place of ours.
PACKAGE = Path(__file__).resolve().parent.parent

# Eight or more hex digits before the extension, as torchvision and OpenMMLab name their files.
# Eight digits that read as a date of this century are a date.
_HASH_IN_NAME = re.compile(r"-(?!20\d{6}\.)([0-9a-f]{8,64})\.[^/]+$")


class WeightsError(RuntimeError):
    """A weights file cannot be fetched or read; the message names it and the remedy."""


class SourceError(Exception):
    """A source cannot serve its file, and another attempt would not help."""


@dataclass(frozen=True)
class FileSource:
    """One place that serves, or once served, a file.

    Args:
        url: ``http(s)://...``, ``hf://owner/repo[@revision]/file`` or a path.
        size: size in bytes, if known.
        sha256: the hash in hex, in full or its first digits. None: take a hash from the file's
            name; ``""``: digits in the file's name are not a hash.
        dead: whether the source is only kept as a record and never tried.
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
            WeightsError: the address is malformed or of a kind that cannot be fetched.
        """
        scheme = re.match(r"[a-z][a-z0-9+.-]+(?=://)", self.url, re.IGNORECASE)
        if not scheme:
            return False
        try:
            urlsplit(self.url)
        except ValueError as error:
            raise WeightsError(f"{self.shown} is not a valid address: {error}") from error
        if scheme[0].lower() not in ("http", "https", "hf"):
            raise WeightsError(
                f"{self.shown} is not an address that can be fetched: "
                "give https://, http://, hf://owner/repo/file or a path"
            )
        return True

    @property
    def shown(self) -> str:
        """The address for messages and records, without secrets."""
        return without_secrets(self.url)

    @property
    def filename(self) -> str | None:
        """The name of the file in the address; None for the opaque link of a shared file."""
        name = self.url.split("?")[0].rsplit("/", 1)[-1]
        return name if name.endswith((".pth", ".pt", ".pkl", ".safetensors")) else None

    @property
    def key(self) -> str:
        """Twelve hex digits that identify the address."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:12]

    @property
    def hub(self) -> tuple[str, str, str] | None:
        """Repository, revision and file on the Hugging Face Hub; None for any other source."""
        if not self.url.lower().startswith("hf://"):
            return None
        match = re.fullmatch(r"(?i:hf)://([^/]+/[^/@]+)(?:@([^/]+))?/(.+)", self.url)
        if not match:
            raise WeightsError(f"{self.shown} is not a Hub address: write hf://owner/repo/file")
        return match[1], match[2] or "main", match[3]

    @property
    def digest(self) -> str | None:
        """The SHA-256, or its first digits, that the file must have; None if unknown."""
        if self.sha256 is not None:
            return self.sha256.lower()
        path = unquote(urlsplit(self.url).path) if self.remote else self.url
        match = _HASH_IN_NAME.search(path)
        return match and match[1]


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file's mapping, by libyaml if PyYAML has it; ValueError if it holds none."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), loader) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no settings, but a {type(content).__name__}")
    return content


def source_of(stated: str | Mapping[str, Any]) -> FileSource:
    """Convert a source from YAML, where ``package:PATH`` is beside the installed packages.

    Raises:
        ValueError: it is not one.
    """
    facts = {"url": stated} if isinstance(stated, str) else stated
    known = [field.name for field in fields(FileSource)]
    if not (
        isinstance(facts, Mapping)
        and isinstance(facts.get("url"), str)
        and all(key in known for key in facts)
    ):
        raise ValueError(
            f"weights are an address or path, or a mapping of {', '.join(known)}, not {stated!r}"
        )
    facts = dict(facts)
    if facts["url"].startswith("package:"):
        facts["url"] = str(PACKAGE / facts["url"].removeprefix("package:"))
    return FileSource(**facts)


def sources_of(stated: Any, file: Path) -> tuple[FileSource, ...]:
    """The sources that a YAML file states, one or a list; a ValueError names the file."""
    try:
        return tuple(map(source_of, stated if isinstance(stated, list | tuple) else [stated]))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def expected(filename: str, sources: Sequence[FileSource]) -> list[FileSource]:
    """Return the sources whose size or hash identify a file; it must match one of them."""
    live = [source for source in sources if not source.dead]
    hashed = [source for source in live if source.digest]
    sized = [source for source in live if source.size]
    unhashed = "" if any(source.sha256 == "" for source in live) else None
    return hashed or sized or [FileSource(filename, sha256=unhashed)]


def with_mirrors(filename: str, sources: Sequence[FileSource]) -> list[FileSource]:
    """Return the user's mirrors, then the live sources in the given order."""
    copies = [FileSource(_join(base, filename), sha256="") for base in mirrors()]
    return copies + [source for source in sources if not source.dead]


def mirrors() -> list[str]:
    """Return URLs and folders of mirrors from ``FCOS_ZOO_MIRRORS`` and each configuration file."""
    listed = os.environ.get("FCOS_ZOO_MIRRORS", "").strip()
    one = os.path.isdir(Path(_path_of(listed)).expanduser())  # its name may contain spaces
    bases = [listed] if one else re.split(r"[,\s]+", listed)
    for folder in (Path.cwd(), platformdirs.user_config_path("fcos-zoo")):
        if (folder / "zoo.toml").is_file():
            bases += _mirrors_in(folder / "zoo.toml")
    return list(dict.fromkeys(_path_of(base) for base in bases if base))


def endpoint() -> str:
    """Return the Hugging Face Hub's address: ``HF_ENDPOINT`` or the public one."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Whether ``FCOS_ZOO_OFFLINE`` forbids the network."""
    return os.environ.get("FCOS_ZOO_OFFLINE", "").lower() not in ("", "0", "false", "no")


def without_secrets(text: str) -> str:
    """Remove user names, passwords and queries (signatures) from the addresses in a text."""
    text = re.sub(r"(\w://)[^/?#\s]*@", r"\1", text)
    return re.sub(r"(\w://[^\s?#]*)[?#][^\s'\"]*", r"\1", text)


def _mirrors_in(config: Path) -> list[str]:
    tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        settings = tomllib.loads(config.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{config} is not valid TOML ({error}): correct or remove it") from error
    if unknown := settings.keys() - {"mirrors"}:
        raise WeightsError(
            f"{config}: unknown setting {', '.join(sorted(unknown))}; the only one is `mirrors`"
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
    if FileSource(base).remote:
        return (
            f"{base.rstrip('/')}/{filename if base.lower().startswith('hf:') else quote(filename)}"
        )
    return str(Path(base).expanduser() / filename)
