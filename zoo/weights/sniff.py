"""What a file is, told from its first bytes, never from its name."""

from __future__ import annotations

import re

HEAD = 1024
"""The number of leading bytes that the functions here want to see."""

_TORCH_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, pickled
_HTML = re.compile(rb"<(!doctype html|html|head|body|script|title)\b", re.IGNORECASE)
_LOG_IN = re.compile(rb"type=.?password|\blog[ -]?in\b|\bsign[ -]?in\b", re.IGNORECASE)


def kind(head: bytes) -> str | None:
    """``"safetensors"``, ``"torch zip"``, ``"torch legacy"``, ``"pickle"`` or None."""
    # A safetensors file opens with the header's length in eight bytes, the lowest of which may
    # look like the opcode that starts a pickle.
    if head[8:9] == b"{" and (head[:1] != b"\x80" or head[5:8] == bytes(3)):
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "torch zip"
    if _TORCH_LEGACY in head[:24]:
        return "torch legacy"
    if re.match(rb"\x80[\x00-\x05]|\(dp?\d*\n|}q.", head, re.DOTALL):
        return "pickle"
    return None


def impostor(head: bytes) -> str | None:
    """Names what hosts send in place of a weights file; None for what may be one."""
    if not head:
        return "an empty file"
    if kind(head):
        return None
    text = head[:HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file it points to"
    if _HTML.search(text):
        return "a log-in page (HTML)" if _LOG_IN.search(text) else "an HTML page"
    if text.startswith(b"<?xml"):
        return "an XML message"
    if text.startswith(b"{"):
        return "a JSON message"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in text):
        return f"a text message ({text[:60].decode('ascii').strip()!r})"
    return None
