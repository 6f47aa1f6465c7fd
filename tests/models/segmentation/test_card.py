"""The card says what was measured."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from auscult.domain.model_card import ModelCard

PAGE = Path(__file__).parents[3] / "docs" / "models" / "lung_nodule_seg.md"
ROWS = {
    "nodules found": "| nodules found | {:.0f} of 20",
    "Dice coefficient, mean": "| Dice, mean over all 20 (0 where missed) | {:.2f} |",
    "false findings per scan": "| false findings per scan | {:.2f} |",
    "error of the longest axial diameter, mean of absolute values": (
        "| error of the longest axial diameter, mean of absolute values | {:.1f} mm"
    ),
}


def test_the_card_repeats_the_evaluation() -> None:
    """Each figure on the card is the one on the page that the evaluation wrote, and it is not for patients."""
    card = ModelCard.parse(files("auscult.models.segmentation").joinpath("card.yaml").read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    assert {item.metric for item in card.performance} == ROWS.keys()
    for item in card.performance:
        assert ROWS[item.metric].format(item.value) in page
    assert not card.clinical_use
