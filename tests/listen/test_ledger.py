"""Nothing is committed past an event that is still being worked on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Delivery
from auscult.listen.ledger import Ledger

EVENT = CloudEvent("org.auscult.test.v1", "/test", b"{}")


def delivery(offset: int, partition: int = 0) -> Delivery:
    """Return an event at a place."""
    return Delivery("topic", partition, offset, "key", EVENT)


def test_what_is_done_waits_for_what_was_before_it() -> None:
    """The second of three is committed with the first, the third with itself."""
    ledger = Ledger()
    one, two, three = (delivery(offset) for offset in (3, 7, 8))
    for each in (one, two, three):
        ledger.open(each)
    assert ledger.done([two]) == []
    assert ledger.done([one]) == [two]
    assert ledger.done([three]) == [three]


def test_a_partition_that_is_read_again_starts_afresh() -> None:
    """What was done before the partition was lost is open again, since the group never committed it."""
    ledger = Ledger()
    one, two = delivery(1), delivery(2)
    ledger.open(one)
    ledger.open(two)
    assert ledger.done([two]) == []
    ledger.open(one)
    ledger.open(two)
    assert ledger.done([one]) == [one]


def test_a_stale_delivery_changes_nothing() -> None:
    """What is done twice, or was never read since, commits nothing."""
    ledger = Ledger()
    ledger.open(delivery(1))
    assert ledger.done([delivery(5)]) == []
    assert ledger.done([delivery(1)]) == [delivery(1)]
    assert ledger.done([delivery(1)]) == []
    ledger.open(delivery(5))
    assert ledger.done([]) == []


@given(st.data())
def test_commits_follow_the_lowest_that_is_open(data: st.DataObject) -> None:
    """In whatever order work ends, each partition is committed up to just before its first open event."""
    read = [delivery(offset, partition) for offset, partition in enumerate(data.draw(st.lists(st.integers(0, 2))))]
    ledger, open_ones, committed = Ledger(), set(read), dict.fromkeys(range(3), -1)
    for each in read:
        ledger.open(each)
    for each in data.draw(st.permutations(read)):
        open_ones.discard(each)
        for commit in ledger.done([each]):
            assert commit.offset > committed[commit.partition]
            committed[commit.partition] = commit.offset
        for partition, position in committed.items():
            mine = [one for one in read if one.partition == partition]
            first_open = min((one.offset for one in mine if one in open_ones), default=len(read))
            assert position == max((one.offset for one in mine if one.offset < first_open), default=-1)
