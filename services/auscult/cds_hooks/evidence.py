"""The evidence page: which model said this, on what evidence, validated where? For people, in plain HTML."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable
from functools import lru_cache
from html import escape
from pathlib import Path

from auscult.bus.events import ModelSwitched
from auscult.bus.switches import EVERY
from auscult.cds_hooks.card import NOT_VALIDATED
from auscult.domain.finding import ModelReference
from auscult.domain.model_card import NOT_AVAILABLE, SOURCE_ATTRIBUTES, ModelCard, Performance

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ADDRESS = re.compile(r"https?://[^\s<>\"']+|\bdoi[: ]\s*10\.\d{4,9}/[^\s<>\"';,]+", re.IGNORECASE)
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b}"
    "h1{margin-bottom:0}h2{margin:2rem 0 .5rem;font-size:1.1rem}table{border-collapse:collapse;width:100%}"
    "th,td{text-align:left;vertical-align:top;padding:.35rem .75rem .35rem 0;border-bottom:1px solid #ddd}"
    "th{width:15rem;font-weight:600}.warning{border-left:4px solid #b45309;background:#fef3c7;padding:.5rem 1rem}"
    ".none{color:#666;font-style:italic}"
)
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing runs, loads or frames; the one style sheet is named by its hash."""


@lru_cache(maxsize=64)
def _parsed(text: str) -> ModelCard:
    return ModelCard.parse(text)


def find(folder: Path, name: str) -> ModelCard | None:
    """Return the card of the model `name` in the repository `folder`, None where it has none.

    InvalidCardError where it cannot be read. A name that is no folder's name is never joined to a path.
    """
    if not _NAME.fullmatch(name):
        return None
    try:
        return _parsed((folder / name / "card.yaml").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None


def page(card: ModelCard, asked: str, off: ModelSwitched | None = None) -> str:
    """Return the page of a model. `asked`: the version that made the card, empty where it was not said.

    `off`: the switch by which the site took it, or all models, out of use.
    """
    warnings = _switched(off) + ([] if card.clinical_use else [f"{NOT_VALIDATED}."])
    if card.stage != "active":
        warnings.append(f"Stage: {card.stage}. Its results are not shown.")
    if asked and asked != card.version:
        warnings.append(f"You came from a result of version {asked}; this page describes version {card.version}.")
    about = {
        "Version": card.version,
        "Stage": card.stage,
        "Validated at this site": "yes" if card.clinical_use else "no",
        "Intended use": card.intended_use,
        "Evidence": card.evidence,
        "Training data": card.training_data,
        "License": card.license,
    }
    sections = [
        f"<h1>{escape(card.title)}</h1><p>{escape(card.name)}, version {escape(card.version)}</p>",
        *(f'<p class="warning">{escape(warning)}</p>' for warning in warnings),
        f"<p>{escape(card.summary)}</p>",
        _table(about.items()),
        "<h2>Performance</h2>",
        _table((item.metric, _measured(item)) for item in card.performance)
        if card.performance
        else f'<p class="none">{NOT_AVAILABLE}</p>',
        "<h2>Limitations</h2><ul>",
        *(f"<li>{_text(limit)}</li>" for limit in card.limitations),
        "</ul>",
    ]
    for heading, keys in SOURCE_ATTRIBUTES.items():
        answers = ((key.replace("_", " ").capitalize(), card.source_attributes[key]) for key in keys)
        sections.append(f"<h2>{escape(heading)}</h2>{_table(answers)}")
    sections.append(
        "<p>The last nine sections are the source attributes of 45 CFR 170.315(b)(11)(iv)(B) (HTI-1).</p>"
    )
    return _document(card.title, sections)


def reference_page(model: ModelReference, off: ModelSwitched | None = None) -> str:
    """Return the page of what has no card here: a guideline, a measurement, or a model served elsewhere."""
    about = {
        "Version": model.version,
        "Evidence": model.evidence,
        "Validated at this site": "yes" if model.clinical_use else "no",
        "Source attributes (HTI-1)": NOT_AVAILABLE,
    }
    warnings = _switched(off) + ([] if model.clinical_use else [f"{NOT_VALIDATED}."])
    told = "".join(f'<p class="warning">{escape(warning)}</p>' for warning in warnings)
    note = "<p>Results rest on it, and the model repository of this site holds no card for it.</p>"
    return _document(model.name, [f"<h1>{escape(model.name)}</h1>", told, note, _table(about.items())])


def _switched(off: ModelSwitched | None) -> list[str]:
    if off is None:
        return []
    what = "All models are" if off.model == EVERY else "This model is"
    return [f"{what} switched off at this site: {off.reason} Results that rest on it are not shown."]


def message_page(title: str, text: str) -> str:
    """Return a page that says only `text`."""
    return _document(title, [f"<h1>{escape(title)}</h1><p>{escape(text)}</p>"])


def _document(title: str, sections: list[str]) -> str:
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(sections)}</body></html>"
    )


def _table(rows: Iterable[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th>{escape(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows)
    return f"<table>{body}</table>"


def _text(value: str) -> str:
    """Escape `value` and make links of its web addresses and DOIs; an empty one says that there is no answer."""
    if not value.strip() or value.strip().lower() == NOT_AVAILABLE:
        return f'<span class="none">{NOT_AVAILABLE}</span>'
    parts, end = [], 0
    for match in _ADDRESS.finditer(value):
        shown = match[0].rstrip(".,;)")
        target = shown if shown.lower().startswith("http") else f"https://doi.org/{shown[4:].strip()}"
        parts += [escape(value[end : match.start()]), f'<a href="{escape(target)}">{escape(shown)}</a>']
        end = match.start() + len(shown)
    return "".join([*parts, escape(value[end:])])


def _measured(item: Performance) -> str:
    number = f"{item.value:g}{f' {item.unit}' if item.unit else ''}"
    interval = f" (95 % interval {item.interval[0]:g} to {item.interval[1]:g})" if item.interval else ""
    return f"{number}{interval}, {item.dataset}"
