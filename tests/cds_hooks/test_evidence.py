"""The evidence page answers which model said this, on what evidence, validated where."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from auscult.bus import events, topics
from auscult.cds_hooks import evidence
from auscult.domain.finding import ModelReference, Result
from auscult.domain.model_card import NOT_AVAILABLE

if TYPE_CHECKING:
    from conftest import Call, Topic


def test_the_page_tells_all_of_the_card(call: Call) -> None:
    """Version, stage, evidence as a link, each measurement, and that the site has not validated the model."""
    answer = call("GET", "/models/brock?version=1")
    assert answer.status_code == 200
    assert "not for clinical use until validated at this site" in answer.text
    assert '<a href="https://doi.org/10.1056/NEJMoa1214726">doi 10.1056/NEJMoa1214726</a>.' in answer.text
    assert "0.94 (95 % interval 0.91 to 0.97), BCCA" in answer.text
    assert "0.9, NLST" in answer.text


@pytest.mark.parametrize("name", ["brock", "guide"])
@pytest.mark.parametrize("every", [False, True])
def test_a_model_that_is_switched_off_is_said_to_be(
    call: Call, topic: Topic, make_result: Callable[..., Result], *, every: bool, name: str
) -> None:
    """The page gives the operators' reason, of models with a card and without; then it is gone again."""
    topic.publish(make_result(models=(ModelReference("guide", "1", "x"),)))
    said = "All models are" if every else "This model is"
    switched = events.ModelSwitched(
        "*" if every else name, enabled=False, number=1, reason="A <b>recall</b>.", by="x"
    )
    topic.publish(switched, kind=events.MODEL_SWITCHED, on=topics.SWITCHES)
    topic.wait()
    text = call("GET", f"/models/{name}").text
    assert f"{said} switched off at this site: A &lt;b&gt;recall&lt;/b&gt;. Results that rest on it" in text
    topic.publish(replace(switched, enabled=True, number=2), kind=events.MODEL_SWITCHED, on=topics.SWITCHES)
    topic.wait()
    assert "switched off" not in call("GET", f"/models/{name}").text


def test_every_source_attribute_is_shown(call: Call) -> None:
    """All 31 have a row; those without an answer say so."""
    text = call("GET", "/models/brock").text
    rows = text[text.index("Details and output of the intervention") :].count("<tr>")
    assert rows == 31
    assert text.count(NOT_AVAILABLE) == 30


def test_nothing_in_a_card_becomes_html(call: Call) -> None:
    """What a card says is text, whatever it looks like."""
    text = call("GET", "/models/brock").text
    assert "Brock &lt;b&gt;model&lt;/b&gt;" in text
    assert "<script" not in text
    assert "<img" not in text


def test_the_browser_is_told_to_run_nothing(call: Call) -> None:
    """The content security policy allows the page's one style sheet and no more."""
    answer = call("GET", "/models/brock")
    [style] = re.findall("<style>(.*?)</style>", answer.text)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_another_version_is_pointed_out(call: Call) -> None:
    """A reader who comes from an older result learns that the page is about another version."""
    assert "version 7" in call("GET", "/models/brock?version=7").text
    assert "You came from" not in call("GET", "/models/brock?version=1").text


def test_what_has_no_card_is_described_by_its_reference(
    call: Call, topic: Topic, make_result: Callable[..., Result]
) -> None:
    """A guideline on which a shown result rests has a page too, which says what is not available."""
    guideline = ModelReference("fleischner_2017", "2017", "doi 10.1148/radiol.2017161659")
    topic.publish(make_result(models=(guideline,)))
    topic.wait()
    answer = call("GET", "/models/fleischner_2017")
    assert answer.status_code == 200
    assert "https://doi.org/10.1148/radiol.2017161659" in answer.text
    assert NOT_AVAILABLE in answer.text


@pytest.mark.parametrize("name", ["other", "..", "%2e%2e", "..%2fbrock", "brock%00", ".hidden", "a" * 65, "brock%0a"])
def test_an_unknown_or_unsafe_name_is_not_found(call: Call, name: str) -> None:
    """No name leads out of the model repository."""
    assert call("GET", f"/models/{name}").status_code == 404


def test_a_card_that_cannot_be_read_is_said(call: Call, models: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The reader learns it on the page, the operator the field in the log."""
    (models / "brock" / "card.yaml").write_text("name: brock\n")
    answer = call("GET", "/models/brock")
    assert answer.status_code == 500
    assert "cannot be read" in answer.text
    assert "missing" in caplog.text


def test_a_changed_card_is_read_anew(models: Path) -> None:
    """The page follows the repository without a restart."""
    file = models / "brock" / "card.yaml"
    assert evidence.find(models, "brock") is not None
    file.write_text(file.read_text().replace("stage: active", "stage: shadow"))
    changed = evidence.find(models, "brock")
    assert changed is not None
    assert "Stage: shadow. Its results are not shown." in evidence.page(changed, "")
