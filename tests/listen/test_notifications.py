"""Reading notifications: the standards' forms, and what is none of them."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hostile_fhir
from auscult.listen.notifications import Change, Own, decoded, missed, notification
from auscult.platform.errors import Refused
from fhir_notifications import BASE, OBSERVATION, event, told

OWN = Own([BASE])


@pytest.mark.parametrize("kind", ["handshake", "heartbeat", "query-status"])
def test_what_brings_no_event_is_understood(kind: str) -> None:
    """A handshake or heartbeat has a count and no change."""
    read = notification(told(kind, so_far=4), OWN)
    assert (read.kind, read.subscription, read.so_far, read.changes) == (kind, "s1", 4, ())


def test_ids_alone_give_references() -> None:
    """An id-only payload may name the server or not."""
    read = notification(told(events=[event(1), event(2, f"{BASE}/Observation/2/_history/5")]), OWN)
    assert read.changes == (Change("Observation/crea-1", number=1), Change("Observation/2", "5", number=2))


def test_whole_resources_give_version_and_patient_too() -> None:
    """And nothing else of them is kept."""
    bundle = told(events=[event(1)])
    bundle["entry"].append({"fullUrl": f"{BASE}/Observation/crea-1", "resource": OBSERVATION})
    assert notification(bundle, OWN).changes == (Change("Observation/crea-1", "3", "Patient/7", 1),)


def test_an_empty_payload_tells_a_number_and_no_resource() -> None:
    """Something happened; a search says what."""
    read = notification(told(events=[event(9)[:2]]), OWN)
    assert (read.numbers, read.changes) == ((9,), ())


def test_a_subscription_status_says_the_same() -> None:
    """R4B and R5 have a resource for what R4 puts into Parameters."""
    status = {
        "resourceType": "SubscriptionStatus",
        "type": "event-notification",
        "status": "active",
        "eventsSinceSubscriptionStart": 2,
        "subscription": {"reference": "Subscription/s1"},
        "notificationEvent": [{"eventNumber": 2, "focus": {"reference": "Observation/crea-1"}}],
    }
    bundle = {"resourceType": "Bundle", "type": "subscription-notification", "entry": [{"resource": status}]}
    assert notification(bundle, OWN).changes == (Change("Observation/crea-1", number=2),)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("http://evil.example/Observation/1", "foreign-reference"),
        ("https://fhir.example.evil/r4/Observation/1", "foreign-reference"),
        ("https://fhir.example/r4x/Observation/1", "foreign-reference"),
        ("//evil.example/Observation/1", "foreign-reference"),
        ("Observation/..", "fhir-malformed"),
        (f"{BASE}/Observation/../Patient", "fhir-malformed"),
        (f"{BASE}/../admin/1", "fhir-malformed"),
        ("Observation/a%2F..", "fhir-malformed"),
        ("Observation/1?x=1", "fhir-malformed"),
        ("#contained", "fhir-malformed"),
        ("Observation/" + "a" * 65, "fhir-malformed"),
        (17, "fhir-malformed"),
        (None, "fhir-malformed"),
    ],
)
def test_a_reference_to_elsewhere_is_refused_by_name(reference: Any, reason: str) -> None:
    """Nothing that could become a request to another place is taken."""
    with pytest.raises(Refused) as refused:
        OWN.place(reference)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "bundle",
    [
        {},
        {"resourceType": "Bundle", "type": "history"},
        {"resourceType": "Bundle", "type": "history", "entry": {}},
        {"resourceType": "Bundle", "type": "history", "entry": [[]]},
        {"resourceType": "Bundle", "type": "history", "entry": [{"resource": {"resourceType": "Patient"}}]},
        {"resourceType": "Bundle", "type": "transaction", "entry": [{"resource": OBSERVATION}]},
        told("birthday"),
        told(events=[[{"name": "event-number", "valueString": "-1"}]]),
        told(events=[[{"name": "event-number", "valueBoolean": True}]]),
        told(events=["part"]),  # type: ignore[list-item]
    ],
)
def test_what_is_no_notification_is_refused_by_name(bundle: dict[str, Any]) -> None:
    """Wrong types, missing parts, other Bundles."""
    with pytest.raises(Refused, match="fhir-malformed"):
        notification(bundle, OWN)


def test_a_notification_of_too_many_events_is_refused() -> None:
    """Its sender is told to send smaller ones."""
    with pytest.raises(Refused, match="bundle-too-long"):
        notification(told(events=[event(number) for number in range(1, 1002)]), OWN)


@pytest.mark.parametrize("depth", [65, 3_000, 200_000])
def test_deep_nesting_is_refused_and_breaks_nothing(depth: int) -> None:
    """However deep: no recursion of ours follows it."""
    body = b'{"a":' * depth + b"1" + b"}" * depth
    with pytest.raises(Refused, match=r"fhir-too-deep|fhir-malformed"):
        decoded(body)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff\xfe", b'{"a":', b"null", b'"Bundle"'])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    """By name, too."""
    with pytest.raises(Refused, match="fhir-malformed"):
        decoded(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([
        "resourceType", "type", "entry", "resource", "parameter", "name", "part", "valueCode", "subscription", "id",
        "valueReference", "reference", "meta", "versionId", "subject",
    ]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_whatever_comes_is_read_or_refused(value: Any) -> None:
    """No other error leaves the reader."""
    with suppress(Refused):
        resource = decoded(json.dumps(value).encode())
        OWN.change(resource)
        notification(resource, OWN)


@given(JSON)
def test_whatever_a_notification_holds_is_read_or_refused(value: Any) -> None:
    """Also below a proper beginning."""
    bundle = told()
    bundle["entry"][0]["resource"]["parameter"].append(value)
    bundle["entry"].append({"resource": value})
    with suppress(Refused):
        notification(bundle, OWN)


@given(st.integers(0, 2**32), st.sampled_from([OBSERVATION, told("handshake", so_far=0), told(events=[event(1)])]))
def test_what_is_good_but_for_a_place_or_a_few_is_read_or_refused(seed: int, good: dict[str, Any]) -> None:
    """Wrong types, addresses elsewhere, bytes that are no UTF-8: whatever is put where something else belongs."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    with suppress(Refused):
        resource = decoded(hostile_fhir.body(hostile_fhir.broken(good, chance), chance))
        if resource.get("resourceType") == "Bundle":
            notification(resource, OWN)
        else:
            OWN.change(resource)


@pytest.mark.parametrize(
    ("last", "numbers", "so_far", "first_missing"),
    [
        (None, [5], 5, None),
        (4, [5], 5, None),
        (4, [4], 4, None),
        (4, [5, 6], 6, None),
        (4, [6], 6, 5),
        (4, [], 7, 5),
        (4, [5, 7], 7, 6),
        (9, [2], 2, None),
        (0, [0], 1, 1),
    ],
)
def test_a_gap_in_the_numbers_is_seen(
    last: int | None, numbers: list[int], so_far: int, first_missing: int | None
) -> None:
    """The first event that never came, also where only a heartbeat's count tells of it."""
    assert missed(last, numbers, so_far) == first_missing
