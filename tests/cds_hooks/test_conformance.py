"""The traceability table of CDS Hooks, docs/cds-hooks.md, names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from auscult.cds_hooks.elements import CardJson, Source, Suggestion
from cds_hooks_schema import wrong_with

ROOT = Path(__file__).resolve().parents[2]
ROWS = re.findall(r"^\|.+\| (.+?) \|$", (ROOT / "docs/cds-hooks.md").read_text(encoding="utf-8"), re.MULTILINE)
NAMED = sorted({row.strip("`") for row in ROWS if row not in {"Test", "---"} and not row.startswith("none: ")})


def test_every_row_has_a_test_or_says_why_not() -> None:
    """There are rows, and each names one."""
    assert len(NAMED) > 50
    assert all(re.fullmatch(r"(tests|integration)/[\w/]+\.py::test_\w+", name) for name in NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_the_named_test_exists(name: str) -> None:
    """Its file holds a function of that name."""
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("suggestions", "behaviour"), [((Suggestion("x"),), ""), ((), "any")])
def test_suggestions_need_a_selection_behaviour(suggestions: tuple[Suggestion, ...], behaviour: str) -> None:
    """One without the other is refused when the card is made."""
    with pytest.raises(ValueError, match="selection"):
        CardJson("s", "info", Source("l"), suggestions=suggestions, selection_behavior=behaviour)  # type: ignore[arg-type]


CARD: dict[str, Any] = {"summary": "s", "indicator": "info", "source": {"label": "l"}}
SUGGESTED = CARD | {"selectionBehavior": "at-most-one"}
RECOMMENDED = {"label": "l", "isRecommended": True}
CREATE = {"type": "create", "description": "d", "resource": {"resourceType": "ServiceRequest"}}


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"cards": None},
        {"cards": [], "systemActions": []},
        {"cards": [], "version": "1"},
        {"cards": [CARD | {"summary": "x" * 140}]},
        {"cards": [CARD | {"indicator": "hard-stop"}]},
        {"cards": [CARD | {"detail": ""}]},
        {"cards": [CARD | {"links": []}]},
        {"cards": [CARD | {"suggestions": [{"label": "l"}]}]},
        {"cards": [SUGGESTED | {"suggestions": [RECOMMENDED, RECOMMENDED]}]},
        {"cards": [CARD | {"overrideReasons": [{"code": "c", "system": "s"}]}]},
        {"cards": [CARD | {"links": [{"label": "l", "url": "https://a", "type": "absolute", "appContext": "x"}]}]},
        {"cards": [], "systemActions": [{"type": "delete", "description": "d"}]},
        {"cards": [], "systemActions": [{"type": "create", "description": "d"}]},
        {"services": [{"hook": "patient-view", "id": "a", "description": "d", "version": "1"}]},
        {"services": [{"hook": "patient-view", "id": "a/b", "description": "d"}]},
    ],
)
def test_the_schema_knows_what_is_wrong(content: dict[str, Any]) -> None:
    """Each of the specification's rules that a schema can tell is told; right answers pass."""
    assert wrong_with(content)
    assert not wrong_with({"cards": [CARD, SUGGESTED | {"suggestions": [RECOMMENDED]}], "systemActions": [CREATE]})
