"""Reads what FHIR servers send to a subscriber: R4 rest-hooks and notifications of topic-based subscriptions.

Topic-based: Subscriptions R5 Backport IG 1.1 on R4 (a `history` Bundle that begins with a Parameters resource),
and on R4B and R5 (one that begins with a SubscriptionStatus). What is sent is read by type and by name, and the rest
passed over; a body that is not what the standards say is Refused by name. References are all that is kept.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from auscult.platform.errors import Refused

MOST_EVENTS = 1000
"""Events in one notification."""
DEEPEST = 64
"""Levels of a document; no FHIR resource in use has half as many."""

_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9\-.]{1,64}")
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_VERSION = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_SUBJECTS = ("patient", "subject", "beneficiary", "individual")
"""Elements that say whom a resource is about (R4 `compartmentdefinition-patient.html`, those with one reference)."""

Kind = Literal["handshake", "heartbeat", "event-notification", "query-status", "query-event"]
_KINDS: dict[str, Kind] = {
    kind: kind for kind in ("handshake", "heartbeat", "event-notification", "query-status", "query-event")
}
_BUNDLES = frozenset({"history", "subscription-notification"})
"""Types of a notification's Bundle: R4's, and that of R5."""


@dataclass(frozen=True, slots=True)
class Change:
    """One resource that changed. `number`: of the subscription's event; 0 where none was sent."""

    reference: str
    version: str = ""
    patient: str = ""
    number: int = 0
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Notification:
    """What a topic-based subscription told. `so_far`: events since the subscription began."""

    kind: Kind
    subscription: str
    """Its id on the server."""
    status: str
    so_far: int | None
    changes: tuple[Change, ...]
    numbers: tuple[int, ...]
    """Of the events it is about, in their order; also of those that name no resource."""


def malformed(what: str) -> Refused:
    """Return the refusal of something that is not what FHIR says."""
    return Refused("fhir-malformed", f"{what}; send what FHIR R4 and the Subscriptions Backport IG say", status=400)


def decoded(body: bytes) -> dict[str, Any]:
    """Return a JSON object; Refused where it is none, or nested deeper than DEEPEST."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise malformed("the body is not JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise malformed("the body is not a FHIR resource")
    if _deeper(value, DEEPEST):
        raise Refused("fhir-too-deep", f"the resource is nested deeper than {DEEPEST} levels", status=400)
    return value


def _deeper(value: object, levels: int) -> bool:
    level: list[object] = [value]
    for _ in range(levels):
        level = [
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True


class Own:
    """Tells references to the configured server from those to elsewhere. `bases`: its addresses, without slash."""

    def __init__(self, bases: Collection[str]) -> None:
        self._prefixes = tuple(f"{base.rstrip('/')}/" for base in bases if base)

    def place(self, reference: object) -> tuple[str, str]:
        """Return `Type/id` and the version, if any; Refused where it leads elsewhere or is no literal reference."""
        if not isinstance(reference, str):
            raise malformed("a reference is not a text")
        relative = next((reference[len(base) :] for base in self._prefixes if reference.startswith(base)), reference)
        if ":" in relative or relative.startswith("/"):
            raise Refused(
                "foreign-reference", "a reference leads to a server that is not configured; nothing is asked there",
                status=422,
            )  # fmt: skip
        kind, _, rest = relative.partition("/")
        identity, history, version = rest.partition("/_history/")
        if not _TYPE.fullmatch(kind) or not _ID.fullmatch(identity) or (history and not _VERSION.fullmatch(version)):
            raise malformed("a reference is not of the form Type/id")
        return f"{kind}/{identity}", version

    def change(self, resource: dict[str, Any], *, number: int = 0, deleted: bool = False) -> Change:
        """Return the change that a whole resource stands for."""
        reference, _ = self.place(f"{resource.get('resourceType')}/{resource.get('id')}")
        meta = resource.get("meta", {})
        version = meta.get("versionId", "") if isinstance(meta, dict) else None
        if not isinstance(version, str) or (version and not _VERSION.fullmatch(version)):
            raise malformed("meta.versionId is not an id")
        return Change(reference, version, self.patient(resource), number, deleted)

    def patient(self, resource: dict[str, Any]) -> str:
        """Return `Patient/<id>` that a resource is about; empty where it names none of this server."""
        if resource.get("resourceType") == "Patient":
            return self.place(f"Patient/{resource.get('id')}")[0]
        for element in _SUBJECTS:
            said = resource.get(element)
            if isinstance(said, dict) and isinstance(said.get("reference"), str):
                try:
                    place, _ = self.place(said["reference"])
                except Refused:
                    continue  # It may be contained, logical or elsewhere: whoever looks for it asks the server.
                if place.startswith("Patient/"):
                    return place
        return ""


def notification(bundle: dict[str, Any], own: Own) -> Notification:
    """Read the Bundle of a topic-based subscription."""
    if bundle.get("resourceType") != "Bundle" or str(bundle.get("type")) not in _BUNDLES:
        raise malformed("a notification is a Bundle of type history")
    resources = [entry.get("resource") for entry in _objects(bundle.get("entry"), "Bundle.entry")]
    if not resources or not isinstance(resources[0], dict):
        raise malformed("a notification begins with its status")
    if len(resources) > MOST_EVENTS * 10:
        raise Refused("bundle-too-long", f"a notification has at most {MOST_EVENTS} events", status=413)
    status = _status(resources[0])
    kind = _KINDS.get(str(status.get("type")))
    if kind is None:
        raise malformed("the notification's type is unknown")
    whole = {place: one for one in resources[1:] if isinstance(one, dict) and (place := _place_of(one))}
    changes, numbers = [], []
    told = _objects(status.get("notification-event", []), "notification-event")
    if len(told) > MOST_EVENTS:
        raise Refused("bundle-too-long", f"a notification has at most {MOST_EVENTS} events", status=413)
    for event in told:
        number = _number(event.get("event-number"))
        numbers.append(number or 0)
        focus = event.get("focus")
        if not isinstance(focus, dict):
            continue  # An empty payload says that something happened, not to what.
        place, version = own.place(focus.get("reference"))
        resource = whole.get(place)
        changes.append(
            own.change(resource, number=number or 0) if resource else Change(place, version, number=number or 0)
        )
    subscription = status.get("subscription")
    place, _ = own.place(subscription.get("reference") if isinstance(subscription, dict) else None)
    so_far = _number(status.get("events-since-subscription-start"))
    return Notification(
        kind, place.partition("/")[2], str(status.get("status", "")), so_far, tuple(changes), tuple(numbers)
    )


def _place_of(resource: dict[str, Any]) -> str:
    return f"{resource.get('resourceType')}/{resource.get('id')}"


def _objects(value: object, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise malformed(f"{what} is not a list of objects")
    return value


def _number(value: object) -> int | None:
    """Return an event's number: a string (R4, IG 1.1), or an integer (R4B, and earlier versions of the IG)."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise malformed("an event number is not a number")
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise malformed("an event number is not a number")
    return int(text)


def _status(resource: dict[str, Any]) -> dict[str, Any]:
    """Return the status by the names that R4's Parameters have, whatever resource it came in."""
    if resource.get("resourceType") == "Parameters":
        return _parameters(_objects(resource.get("parameter"), "Parameters.parameter"))
    if resource.get("resourceType") == "SubscriptionStatus":
        return _kebab(resource)
    raise malformed("a notification begins with Parameters or a SubscriptionStatus")


def _parameters(parameters: Iterable[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"notification-event": []}
    for parameter in parameters:
        name = _hyphened(str(parameter.get("name")))
        if name == "notification-event":
            found[name].append(_parameters(_objects(parameter.get("part", []), "notification-event.part")))
        else:
            found[name] = next((value for key, value in parameter.items() if key.startswith("value")), None)
    return found


def _kebab(status: dict[str, Any]) -> dict[str, Any]:
    events = [
        {_hyphened(key): value for key, value in event.items()}
        for event in _objects(status.get("notificationEvent", []), "notificationEvent")
    ]
    return {_hyphened(key): value for key, value in status.items()} | {"notification-event": events}


def _hyphened(name: str) -> str:
    return re.sub(r"([A-Z])", lambda match: f"-{match[1].lower()}", name)


def missed(last: int | None, numbers: Collection[int], so_far: int | None) -> int | None:
    """Return the first event number that never came; None where none is missing. `last`: the highest that came."""
    if last is None:
        return None  # What was before our time is an operator's to fetch: `auscult fhir backfill`.
    here = {number for number in numbers if number > 0}
    for number in _following(last, max([*here, so_far or 0, last])):
        if number not in here:
            return number
    return None


def _following(last: int, highest: int) -> Iterator[int]:
    yield from range(last + 1, min(highest, last + MOST_EVENTS + 1) + 1)
