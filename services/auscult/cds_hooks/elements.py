"""The elements of an answer, as JSON (CDS Hooks 2.0.1, CDS Service Response). None has more than is specified."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Coding(msgspec.Struct, frozen=True):
    """A code with its text, which override reasons must have."""

    system: str
    code: str
    display: str


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the card comes from. `url`: the evidence page of the first model."""

    label: str
    url: str = ""
    topic: Coding | None = None


class Link(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A link. `app_context` is told to a SMART app alone."""

    label: str
    url: str
    type: Literal["absolute", "smart"]
    app_context: str = ""


class Action(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One change. `resource`: what is created, or the whole of what is updated. `resource_id`: what is deleted."""

    type: Literal["create", "update", "delete"]
    description: str
    resource: dict[str, Any] | None = None
    resource_id: str = ""


class Suggestion(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Changes that are taken together, or not at all."""

    label: str
    uuid: str = ""
    is_recommended: bool = False
    actions: tuple[Action, ...] = ()


class CardJson(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The card as it is sent: what has no value is left out, never null or empty."""

    summary: str
    indicator: Literal["info", "warning", "critical"]
    source: Source
    uuid: str = ""
    detail: str = ""
    suggestions: tuple[Suggestion, ...] = ()
    selection_behavior: Literal["", "at-most-one", "any"] = ""
    override_reasons: tuple[Coding, ...] = ()
    links: tuple[Link, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.suggestions) != bool(self.selection_behavior):
            raise ValueError("a card has a selection behaviour exactly where it has suggestions")
