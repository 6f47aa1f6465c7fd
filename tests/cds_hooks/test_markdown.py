"""Text from outside does nothing in an EHR but be read."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from auscult.cds_hooks.markdown import SUMMARY_LIMIT, one_line, sanitise, shorten

WORDS = "javascript: JavaScript vbscript: script https://a.org data:text/html,x <img/src=x/onerror=y>"
MARKS = "[x] ( ) ] [ ![ : \\ < > &colon; &#58; &lt; \x00 \u200b ` [a]: 't' \" <!-- ]]>"
PIECES = st.sampled_from([*WORDS.split(), *MARKS.split(), "\n", "\t", " "])
MARKDOWN = st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join)


def rendered(text: str) -> str:
    """Render Markdown as a careless EHR does: raw HTML passed through and any address linked."""
    renderer = MarkdownIt("commonmark", {"html": True}).enable("table")
    setattr(renderer, "validateLink", lambda url: True)  # noqa: ARG005, B010 - mypy takes no method's place
    return str(renderer.render(text))


@given(MARKDOWN)
@example("[x](javascript:alert(1))")
@example("[x](JAVA\x00SCRIPT:alert(1))")
@example("[x](&#106;avascript:alert(1))")
@example("[x](javascript\\:alert(1))")
@example("[x]( <javascript:alert(1)>)")
@example("<javascript:alert(1)>")
@example("[x]\n\n[x]:\njavascript:alert(1)")
@example("<script>alert(1)</script>")
@example("![x](https://tracker.example.org/pixel.png)")
def test_nothing_in_a_detail_runs_or_loads(text: str) -> None:
    """Whatever the text, no tag of its own, no image and no address other than http(s) is left once rendered."""
    safe = sanitise(text)
    assert "<script" not in safe.lower()
    assert "javascript:" not in safe.lower()
    html = rendered(safe)
    targets = re.findall(r'(?:href|src)="([^"]*)"', html)
    assert all(re.match("https?:", target, re.IGNORECASE) for target in targets)
    assert not re.search("<(img|script|iframe|!--|!\\[|\\?)", html, re.IGNORECASE)


@pytest.mark.parametrize(
    "target",
    [
        '(https://a.org" onclick="alert(1))',
        "(https://a.org 'x\" onmouseover=alert(1)')",
        "(//a.org)",
        "(/\\a.org)",
        "(data:text/html,x)",
        "(ftp://a.org)",
        "(https:/a.org)",
        "(&#104;ttps://a.org)",
        "(https://a.org`)",
        "[a]\n\n[a]: https://a.org 'x\" y'",
        "[a]\n\n> [a]:\n//a.org",
    ],
)
def test_a_link_is_a_web_address_alone(target: str) -> None:
    """No title, quote or other scheme is left in a link, for renderers that put it into HTML as it is."""
    assert "<a" not in rendered(sanitise(f"[x]{target}"))


@pytest.mark.parametrize("address", ["https://a.org/?x=1", "https://doi.org/10.1016/S0140-6736(18)30994-2"])
def test_a_link_to_a_web_address_stays_a_link(address: str) -> None:
    """With parentheses, as DOIs have them."""
    assert f'href="{address}"' in rendered(sanitise(f"[x]({address})"))
    assert f'href="{address}"' in rendered(sanitise(f"[x]\n\n[x]: {address}"))


@pytest.mark.parametrize("hidden", "\u202e\u2066\u061c\u200f\xad\u180e\ufeff\U000e0041\u2028\x1b")
def test_no_character_hides_or_turns_what_is_read(hidden: str) -> None:
    """Bidirectional controls, invisible characters and escapes are gone from details and summaries."""
    assert sanitise(f"a{hidden}b") == "ab"
    assert hidden not in shorten(f"a{hidden}b")


def test_harmless_markdown_is_kept() -> None:
    """Emphasis, tables, lists, comparisons and web links arrive as they were meant."""
    text = "**Size** | value\n--- | ---\nRisk | < 5 % & rising\n\n- [Evidence](https://a.org/?x=1&y=2)"
    html = rendered(sanitise(text))
    assert "<strong>Size</strong>" in html
    assert "<td>&lt; 5 % &amp; rising</td>" in html
    assert '<a href="https://a.org/?x=1&amp;y=2">Evidence</a>' in html


def test_a_character_reference_stays_what_it_was() -> None:
    """It does not turn into the character that it hides, neither for this renderer nor for one after it."""
    assert "javascript&amp;colon;x &amp;lt;b" in rendered(sanitise("javascript&colon;x &lt;b"))


@given(st.text(max_size=400))
def test_a_summary_is_short_and_on_one_line(text: str) -> None:
    """A summary has fewer than 140 characters, no line break, and ends in an ellipsis only where it was cut."""
    short = shorten(text)
    assert len(short) <= SUMMARY_LIMIT < 140
    assert len(short.splitlines()) <= 1
    assert short == one_line(text) or short.endswith("\u2026")


def test_a_summary_is_cut_between_words() -> None:
    """The last word that does not fit is left out whole."""
    text = "nodule " * 20 + "x"
    assert shorten(text) == "nodule " * 18 + "nodule\u2026"


@pytest.mark.parametrize("text", ["a" * 139, "word " * 27 + "end."])
def test_a_summary_that_fits_is_kept(text: str) -> None:
    """At the limit nothing is cut."""
    assert len(text) == SUMMARY_LIMIT
    assert shorten(text) == text


def test_no_tag_begins_in_plain_text() -> None:
    """A comparison is kept; what an EHR without escaping could take for a tag is not."""
    assert one_line("risk < 5 %\nof <script>") == "risk < 5 % of \u2039script>"
