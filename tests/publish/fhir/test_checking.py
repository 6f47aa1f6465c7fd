"""What is written is checked against FHIR's classes, also where another of its shape was found good."""

from __future__ import annotations

import copy
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auscult.platform.errors import DeadLetter
from auscult.publish.fhir import checking
from auscult.publish.fhir.resources import transaction
from fhir_samples import finding, result

WHOLE = [entry["resource"] for entry in transaction(result(finding("nodule-1")))["entry"]]
SIZE = next(r for r in WHOLE if r.get("code", {}).get("text") == "Size Tumor")


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return a good Observation with one thing changed."""
    resource = copy.deepcopy(SIZE)
    change(resource)
    return resource


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda r: r.update(effectiveDateTime="2026-13-45"), "effectiveDateTime"),
        (lambda r: r.update(effectiveDateTime="2026-03-01T10:00"), "effectiveDateTime"),
        (lambda r: r.update(id="with space"), "id"),
        (lambda r: r["code"].update(text=""), "text"),
        (lambda r: r["code"]["coding"][0].update(code=" padded"), "code"),
        (lambda r: r["component"][0]["valueQuantity"].update(value=Decimal("NaN")), "value"),
        (lambda r: r.update(colour="red"), "colour"),
        (lambda r: r.pop("status"), "status"),
        (lambda r: r.update(valueString="and a value", valueInteger=7), ""),
    ],
)
def test_shape_that_was_good_lets_nothing_bad_pass(change: Callable[[dict[str, Any]], object], place: str) -> None:
    """After a good resource, one that differs in a value that is not allowed is refused, by place."""
    checking.check(WHOLE, "p")
    with pytest.raises(DeadLetter, match=rf"result-invalid.*Observation.*{place}"):
        checking.check([changed(change)], "p")


@settings(deadline=None)
@given(st.text(max_size=12), st.sampled_from(["id", "effectiveDateTime", "issued"]))
def test_verdict_is_the_one_of_fhirs_class(text: str, element: str) -> None:
    """Whatever stands there, the shortcut never says good where the class says bad."""
    resource = changed(lambda r: r.update({element: text}))
    try:
        checking.check([resource], "p")
    except DeadLetter:
        return
    checking.CLASSES["Observation"].model_validate(resource)


def test_results_that_differ_in_numbers_share_their_shapes() -> None:
    """A second result of the same kind makes no class look again."""
    checking.check(WHOLE, "p")
    before = set(checking._good)
    transaction(result(finding("nodule-2"), recorded="2026-03-02T10:00:00.123Z"))
    assert checking._good == before
