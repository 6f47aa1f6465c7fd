"""CloudEvents in the binary Kafka binding: what was written is read, what is none is refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auscult.bus.cloudevents import CloudEvent
from auscult.domain.deadline import Deadline
from auscult.platform.errors import DeadLetter

TEXT = st.text(min_size=1, max_size=20)
ATTRIBUTES = {"specversion", "id", "source", "type", "time", "subject", "traceparent", "deadline"}
EXTENSIONS = st.dictionaries(
    st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(lambda n: n not in ATTRIBUTES), TEXT
)
DEADLINES = st.integers(0, 4_000_000_000_000).map(
    lambda milliseconds: Deadline.parse(str(Deadline(milliseconds / 1000)))
)
EVENTS = st.builds(
    CloudEvent,
    type=TEXT,
    source=TEXT,
    data=st.binary(),
    subject=st.text(max_size=20),
    id=TEXT,
    time=TEXT,
    traceparent=st.text(max_size=60),
    deadline=st.none() | DEADLINES,
    extensions=EXTENSIONS.map(lambda given: tuple(sorted(given.items()))),
)
REQUIRED = ("ce_specversion", "ce_id", "ce_source", "ce_type")


@given(EVENTS, st.randoms())
def test_an_event_is_read_as_it_was_written(event: CloudEvent, random: st.Random) -> None:
    """Every attribute, extension and byte of data survives, in whatever order the headers come."""
    headers = event.to_headers()
    random.shuffle(headers)
    assert CloudEvent.from_headers(headers, event.data) == event


@given(EVENTS)
def test_headers_have_the_names_of_the_binding(event: CloudEvent) -> None:
    """`ce_` before each attribute, `content-type` without it, and nothing empty."""
    headers = dict(event.to_headers())
    assert headers.pop("content-type") == b"application/json"
    assert all(name.startswith("ce_") and value for name, value in headers.items())
    assert headers["ce_specversion"] == b"1.0"


NAMES = st.sampled_from([*REQUIRED, "ce_deadline", "ce_x"]) | st.text()
VALUES = st.sampled_from([b"", b"1.0", b"9999-12-31T23:59:59-10:00", b"2030-01-01T00:00:00Z"]) | st.binary()


@given(EVENTS, st.lists(st.tuples(NAMES, VALUES)))
def test_any_headers_give_an_event_that_can_be_sent_on_or_a_dead_letter(
    event: CloudEvent, others: list[tuple[str, bytes]]
) -> None:
    """Nothing that somebody writes to a topic stops its consumer."""
    try:
        read = CloudEvent.from_headers([*event.to_headers(), *others], b"")
    except DeadLetter:
        return
    assert CloudEvent.from_headers(read.to_headers(), b"").id == read.id


@pytest.mark.parametrize("missing", REQUIRED)
def test_a_missing_attribute_is_named(missing: str) -> None:
    """The operator learns which header the producer must send."""
    headers = [(name, value) for name, value in CloudEvent("t", "/s", b"").to_headers() if name != missing]
    with pytest.raises(DeadLetter, match=missing):
        CloudEvent.from_headers(headers, b"")


@pytest.mark.parametrize("deadline", ["soon", "2026-01-31T12:00:00", "9999-12-31T23:59:59-10:00", ""])
def test_a_deadline_that_is_none_is_refused(deadline: str) -> None:
    """It needs an offset, and a place in the calendar in UTC."""
    headers = [*CloudEvent("t", "/s", b"").to_headers(), ("ce_deadline", deadline.encode())]
    with pytest.raises(DeadLetter, match="ce_deadline"):
        CloudEvent.from_headers(headers, b"")


def test_another_version_of_the_specification_is_refused() -> None:
    """Its attributes may mean something else."""
    headers = [
        (name, b"2.0" if name == "ce_specversion" else v) for name, v in CloudEvent("t", "/s", b"").to_headers()
    ]
    with pytest.raises(DeadLetter, match="ce_specversion"):
        CloudEvent.from_headers(headers, b"")


@pytest.mark.parametrize("data", [b"", b"{", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_data_of_another_kind_is_a_dead_letter_that_does_not_quote_it(data: bytes) -> None:
    """The decoder's own message would quote the value."""
    with pytest.raises(DeadLetter, match="not a valid int") as refusal:
        CloudEvent("t", "/s", data).payload(int)
    assert "text" not in str(refusal.value)
