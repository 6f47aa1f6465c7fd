"""The SQLite bus keeps the contract, and what is true of it alone."""

from __future__ import annotations

import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from auscult.bus import sqlite_file, sqlite_group
from auscult.bus.cloudevents import CloudEvent, Headers
from auscult.bus.sqlite import SqliteBus
from auscult.bus.topics import Topic
from auscult.platform.errors import RefuseToStart, Retry
from contracts.bus_contract import KEY, BusContract, event, take

TOPIC = Topic("test")
NEWEST = Topic("test.compacted", compacted=True)


class TestSqliteBus(BusContract):
    """The contract, on a file."""

    patience = 0.5

    @pytest.fixture
    def bus_url(self, tmp_path: Path) -> str:
        """Name a new file."""
        return f"sqlite:{tmp_path / 'bus.db'}"

    def put(self, bus_url: str, topic: Topic, key: bytes, headers: Headers, data: bytes) -> None:
        """Write a row, in the partition in which the key's events are."""
        with closing(sqlite3.connect(bus_url.removeprefix("sqlite:"))) as connection, connection:
            connection.execute(
                "INSERT INTO event (topic, compacted, partition, key, headers, data) "
                "SELECT topic, compacted, partition, key, ?, ? FROM event WHERE topic = ? AND key = ? LIMIT 1",
                (msgspec.msgpack.encode(headers), data, topic.name, key.decode()),
            )

    def stored(self, bus_url: str, topic: Topic) -> list[tuple[bytes, Headers, bytes]]:
        """Read the rows."""
        with closing(sqlite3.connect(bus_url.removeprefix("sqlite:"))) as connection:
            rows = connection.execute(
                "SELECT key, headers, data FROM event WHERE topic = ?", (topic.name,)
            ).fetchall()
        return [(key.encode(), msgspec.msgpack.decode(headers, type=Headers), data) for key, headers, data in rows]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the bus file will be."""
    return tmp_path / "new" / "bus.db"


@pytest.fixture
def bus(path: Path) -> Iterator[SqliteBus]:
    """Open a bus with one partition."""
    with closing(SqliteBus(path, partitions=1, lease=0.3)) as bus:
        yield bus


def test_a_compacted_topic_stores_one_row_a_key(bus: SqliteBus, path: Path) -> None:
    """Older events of the key are gone from the file, those of other keys and topics are not."""
    for number in range(3):
        bus.publish(NEWEST, event(number), key="a")
        bus.publish(TOPIC, event(number), key="a")
    bus.publish(NEWEST, event(9), key="b")
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT topic, key, count(*) FROM event GROUP BY 1, 2 ORDER BY 1, 2").fetchall()
    assert rows == [("test", "a", 3), ("test.compacted", "a", 1), ("test.compacted", "b", 1)]


def test_what_gathers_behind_a_write_is_one_transaction(bus: SqliteBus, path: Path) -> None:
    """Its publishers wait for one flush together, and one whose event cannot be stored is the only one told so."""
    begun: list[str] = []
    bus._connection.set_trace_callback(lambda text: begun.append(text) if text.startswith("BEGIN") else None)
    bus._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
    large = replace(event(9), data=b"x" * 200_000)

    def together(*sent: CloudEvent) -> list[str]:
        """Publish all at once; return what became of those that failed."""
        failed: list[str] = []

        def publish(one: CloudEvent) -> None:
            try:
                bus.publish(TOPIC, one, key="a")
            except Retry as problem:
                failed.append(problem.reason)

        threads = [threading.Thread(target=publish, args=(one,)) for one in sent]
        begun.clear()
        with bus._lock:
            for thread in threads:
                thread.start()
            while len(bus._waiting) < len(sent):
                time.sleep(0.001)
        for thread in threads:
            thread.join()
        return failed

    assert together(*map(event, range(5))) == []
    assert len(begun) == 1
    assert together(event(5), large, event(6)) == ["bus-unavailable"]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM event").fetchone() == (7,)


def test_an_offset_is_never_given_twice(bus: SqliteBus) -> None:
    """A group that committed the newest event sees the one that replaces it."""
    with bus.subscribe(NEWEST, group="workers") as subscription:
        bus.publish(NEWEST, event(1), key="a")
        (first,) = take(subscription, 1)
        subscription.commit(first)
        bus.publish(NEWEST, event(2), key="a")
        assert take(subscription, 1)[0].offset > first.offset


def test_a_late_commit_changes_nothing(bus: SqliteBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that slept past its lease and lost the partition cannot commit for its successor."""
    monkeypatch.setattr(sqlite_group, "LONGEST_HANDLING", -1.0)  # its lease is renewed by poll alone, as if hung
    for number in range(2):
        bus.publish(TOPIC, event(number), key=KEY)
    with bus.subscribe(TOPIC, group="workers") as sleeper:
        taken = take(sleeper, 2)
        with bus.subscribe(TOPIC, group="workers") as successor:
            take(successor, 1)
            sleeper.commit(taken[1])
    with bus.subscribe(TOPIC, group="workers") as subscription:
        assert take(subscription, 1)[0].event.payload(int) == 0


def test_a_partition_is_handed_over_between_events_when_a_consumer_joins(path: Path) -> None:
    """No lease has to run out for it: the members see each other's rows."""
    with (
        closing(SqliteBus(path, partitions=2)) as bus,
        bus.subscribe(TOPIC, group="workers") as first,
        bus.subscribe(TOPIC, group="workers") as second,
    ):
        assert first.poll(0) is None
        assert second.poll(0) is None
        for number in range(8):
            bus.publish(TOPIC, event(number), key=str(number))
        shares = []
        for subscription in (first, second):
            shares.append([])
            while (delivery := subscription.poll(0)) is not None:
                shares[-1].append(delivery.partition)
        assert all(shares)
        assert set(shares[0]).isdisjoint(shares[1])
        assert sum(map(len, shares)) == 8


def test_leases_from_before_a_reboot_do_not_hold(bus: SqliteBus, path: Path) -> None:
    """The clock starts again at a reboot, so a lease may seem to run for days."""
    with bus.subscribe(TOPIC, group="workers"):
        pass
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE lease SET owner = 'gone', until = 1e12")
        connection.execute("INSERT INTO member VALUES ('workers', 'test', '0', 1e12)")
    bus.publish(TOPIC, event(), key=KEY)
    with bus.subscribe(TOPIC, group="workers") as subscription:
        assert subscription.poll(0) is not None


def test_a_waiting_consumer_wakes_when_another_connection_publishes(bus: SqliteBus, path: Path) -> None:
    """Long before its timeout, and from another thread or process alike."""
    with bus.subscribe(TOPIC, group="workers") as subscription, closing(SqliteBus(path)) as other:
        publisher = threading.Timer(0.05, other.publish, (TOPIC, event(5)), {"key": KEY})
        publisher.start()
        delivery = subscription.poll(30)
        publisher.join()
    assert delivery is not None


def test_a_file_keeps_its_number_of_partitions(path: Path) -> None:
    """With another number a key's events would lie in two partitions."""
    with closing(SqliteBus(path, partitions=1)) as first:
        first.publish(TOPIC, event(0), key="b")
    with closing(SqliteBus(path, partitions=64)) as second:
        second.publish(TOPIC, event(1), key="b")
        assert {d.partition for d in second.read(TOPIC)} == {0}


def test_a_full_disk_is_told_and_stores_nothing(bus: SqliteBus) -> None:
    """Publishing raises Retry, and goes on when there is space again."""
    pages = bus._connection.execute("PRAGMA page_count").fetchone()[0]
    bus._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Retry, match=r"bus-unavailable.*SQLITE_FULL"):
        bus.publish(TOPIC, event("x" * 100_000), key=KEY)
    bus._connection.execute("PRAGMA max_page_count = 1000000")
    bus.publish(TOPIC, event(1), key=KEY)
    assert [d.event.payload(int) for d in bus.read(TOPIC)] == [1]


def test_a_locked_file_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that does not let go of the file makes publishing raise Retry, not wait for ever."""
    monkeypatch.setattr(sqlite_file, "_BUSY_SECONDS", 0.01)
    with closing(SqliteBus(path)) as bus, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Retry, match=r"bus-unavailable.*SQLITE_BUSY"):
            bus.publish(TOPIC, event(), key=KEY)
        other.execute("ROLLBACK")


def test_headers_that_cannot_be_read_are_a_malformed_event(bus: SqliteBus, path: Path) -> None:
    """A damaged row is delivered as such and does not stop the consumer."""
    bus.publish(TOPIC, event(1), key=KEY)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE event SET headers = x'c1'")
    with bus.subscribe(TOPIC, group="workers") as subscription:
        assert take(subscription, 1)[0].event.type == "org.auscult.malformed.v1"


def test_every_commit_waits_for_the_disk_and_only_the_owner_reads_the_file(bus: SqliteBus, path: Path) -> None:
    """Write-ahead log, synchronous=FULL (2), file mode 0600."""
    assert bus._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert bus._connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_path_that_is_no_database_refuses_to_start(tmp_path: Path) -> None:
    """A folder, or a file of something else, is named as the error that it is."""
    (tmp_path / "text").write_text("this is no database, and long enough to be seen as none\n" * 9)
    for wrong in (tmp_path, tmp_path / "text"):
        with pytest.raises(RefuseToStart, match="bus-unusable"):
            SqliteBus(wrong)


def test_a_topic_with_retention_loses_its_oldest_events(tmp_path: Path) -> None:
    """What is older than the topic keeps goes as new events come, from it and no other topic; the rest stays."""
    kept = Topic("test.kept", kept=60.0)
    bus = SqliteBus(tmp_path / "bus.db", partitions=1)
    old, new = "2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"
    for number in range(40):
        bus.publish(kept, replace(event(number), time=old), key=KEY)
    bus.publish(TOPIC, replace(event("other"), time=old), key=KEY)
    for number in range(4):
        bus.publish(kept, replace(event(f"new {number}"), time=new), key=KEY)
    assert [d.event.payload(str) for d in bus.read(kept)] == [f"new {number}" for number in range(4)]
    assert len(list(bus.read(TOPIC))) == 1
    bus.close()
