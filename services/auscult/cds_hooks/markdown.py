"""Text that is safe to hand to an EHR: Markdown without HTML or active links, and plain one-liners.

A card's text holds words from outside (a structure's name, a model's citation), and nobody knows how strict
the EHR's Markdown renderer is. So nothing is left that any renderer could run or load by itself.
"""

from __future__ import annotations

import re

SUMMARY_LIMIT = 139
"""CDS Hooks 2.0, Card Attributes: `summary` has fewer than 140 characters."""

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
"""Control, zero-width, bidirectional and tag characters: they hide or reorder what a reader sees."""
_ADDRESS = r"\s*https?://(?:[^\s\"'()<>`\\]|\([^\s\"'()<>`\\]*\))+\s*"
"""A web address alone. A title or quotes behind it end the attribute in the HTML of a careless renderer."""
_LINK = re.compile(rf"\](?:(\()(?!{_ADDRESS}\))|(:)(?!{_ADDRESS}(?:\n|$)))", re.IGNORECASE)
"""The joint of an inline link or a link definition (GFM 6.6, 4.7) whose target is not a web address alone."""
_SCRIPT = re.compile(r"((?:java|vb)script)\s*:", re.IGNORECASE)
"""Not a link by now, but some renderers make links of bare addresses."""
_TAG = re.compile(r"<(?=[A-Za-z/!?])")


def sanitise(text: str) -> str:
    """Return Markdown that shows the same words, with neither HTML, images nor links other than http(s).

    `&` goes first: a character reference (GFM 6.2) could hide what the next lines look for.
    """
    text = _INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("![", "!\\[")
    text = _LINK.sub(lambda joint: f"]\\{joint[1] or joint[2]}", text)
    return _SCRIPT.sub(r"\1 :", text)


def one_line(text: str) -> str:
    """Return plain text on one line, in which no HTML tag can begin."""
    return _TAG.sub("\u2039", " ".join(_INVISIBLE.sub(" ", text).split()))


def shorten(text: str, limit: int = SUMMARY_LIMIT) -> str:
    """Return `text` on one line, cut between words with an ellipsis where it has more than `limit` characters."""
    line = one_line(text)
    if len(line) <= limit:
        return line
    cut = line[:limit]
    head, _, _ = cut.rpartition(" ")
    return (head or cut[:-1]).rstrip(" ,;:") + "\u2026"
