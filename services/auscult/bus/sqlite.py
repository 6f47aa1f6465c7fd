"""The embedded bus: one SQLite file, shared by all processes of one machine.

For a single machine with nothing installed. It is durable (write-ahead log, `synchronous=FULL`: a published
event survives a power cut) and has consumer groups, but one writer at a time; the file must be on a local disk,
for SQLite's locks do not hold on network file systems. Kafka is for the rest.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from auscult.bus.cloudevents import CloudEvent, Headers
from auscult.bus.contract import Delivery
from auscult.bus.record import publishing, readable
from auscult.bus.sqlite_file import COLUMNS, Watch, available, connect, decoded, prepare, transaction
from auscult.bus.sqlite_group import SqliteSubscription
from auscult.bus.topics import Topic
from auscult.platform.errors import Retry

_PAGE = 100
"""Events that a tail or `read` fetches at once."""

_SWEPT = 16
"""Old events that one publish to a topic with retention removes at the most."""

_NOWHERE: Mapping[tuple[str, int], int] = {}

LEASE = 10.0
"""Seconds after which the partitions of a process that died go to another."""


@dataclass
class _Row:
    """An event whose publisher waits. `problem`: why it is not on disk; None once it is."""

    topic: Topic
    partition: int
    key: str
    headers: bytes
    data: bytes
    taken: bool = False
    problem: Exception | None = field(
        default_factory=lambda: Retry("bus-unavailable", "the writing was interrupted; it is not known to be on disk")
    )


class SqliteBus:
    """A Bus in the file `path`. `partitions`: how many consumers of a group can share a topic, for a new file."""

    def __init__(self, path: Path | str, partitions: int = 4, *, lease: float = LEASE) -> None:
        self._path = Path(path)
        self._partitions = prepare(self._path, partitions)
        self._lease = lease
        self._lock = threading.Lock()
        self._connection = connect(self._path)
        self._waiting: deque[_Row] = deque()

    def publish(self, topic: Topic, event: CloudEvent, *, key: str) -> None:
        """Append `event`; on disk on return. On a compacted topic, the key's older events are removed."""
        # crc32 is the same in every process and Python version, which hash() is not.
        partition = zlib.crc32(key.encode()) % self._partitions
        with publishing(topic, event) as sent, available():
            row = _Row(topic, partition, key, msgspec.msgpack.encode(sent.to_headers()), sent.data)
            self._waiting.append(row)
            # What gathered while another thread wrote goes to the disk at once: one flush for all of it.
            with self._lock:
                if not row.taken:
                    self._write([self._waiting.popleft() for _ in range(len(self._waiting))])
            if row.problem is not None:
                raise row.problem

    def _write(self, rows: Sequence[_Row]) -> None:
        """Append all in one transaction; where one of them cannot be, each in its own. Fills in their `problem`."""
        for row in rows:
            row.taken = True
        try:
            with transaction(self._connection):
                for row in rows:
                    self._append(row)
        except Exception as problem:  # noqa: BLE001 - whoever published it is told, in its own thread
            if len(rows) == 1 or isinstance(problem, sqlite3.OperationalError):  # the disk's or a lock's, not a row's
                for row in rows:
                    row.problem = problem
            else:
                for row in rows:
                    self._write([row])
        else:
            for row in rows:
                row.problem = None

    def _append(self, row: _Row) -> None:
        topic = row.topic
        if topic.compacted:
            self._connection.execute(
                "DELETE FROM event WHERE topic = ? AND key = ? AND compacted", (topic.name, row.key)
            )
        self._connection.execute(
            "INSERT INTO event (topic, compacted, partition, key, headers, data) VALUES (?, ?, ?, ?, ?, ?)",
            (topic.name, topic.compacted, row.partition, row.key, row.headers, row.data),
        )
        if topic.kept is not None:
            self._sweep(topic.name, row.partition, topic.kept)

    @contextmanager
    def subscribe(self, *topics: Topic, group: str) -> Iterator[SqliteSubscription]:
        """Join `group` as one more consumer; a new group starts at the beginning."""
        with available():
            subscription = SqliteSubscription(
                self._path, [topic.name for topic in topics], group, partitions=self._partitions, lease=self._lease
            )
        try:
            yield subscription
        finally:
            subscription.close()

    def _sweep(self, topic: str, partition: int, kept: float) -> None:
        """Remove what is older than `kept` seconds, oldest first, a few at a time: no publish pays for all."""
        oldest = self._connection.execute(
            "SELECT offset, headers FROM event WHERE topic = ? AND partition = ? ORDER BY offset LIMIT ?",
            (topic, partition, _SWEPT),
        ).fetchall()
        bound = (datetime.now(UTC) - timedelta(seconds=kept)).isoformat()
        old = [offset for offset, headers in oldest if _made(headers) < bound]
        if old:
            self._connection.execute(
                "DELETE FROM event WHERE topic = ? AND partition = ? AND offset <= ?", (topic, partition, max(old))
            )

    @contextmanager
    def tail(self, *topics: Topic, start: Mapping[tuple[str, int], int] = _NOWHERE) -> Iterator[SqliteTail]:
        """Read from the beginning, or from `start` on, without a group."""
        with available():
            tail = SqliteTail(self._path, [topic.name for topic in topics], start)
        try:
            yield tail
        finally:
            tail.close()

    def read(self, topic: Topic) -> Iterator[Delivery]:
        """Yield all that is in the topic now, in the order of publishing."""
        with self.tail(topic) as tail:
            while not tail.caught_up:
                delivery = tail.poll(0)
                if delivery is not None:
                    yield delivery

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._connection.close()


class SqliteTail:
    """Reads whole topics in the order of publishing."""

    def __init__(self, path: Path, topics: list[str], start: Mapping[tuple[str, int], int] = _NOWHERE) -> None:
        self._connection = connect(path)
        self._watch = Watch(self._connection)
        self._page: deque[Delivery] = deque()
        self._position = 0
        self._wanted = f"topic IN ({', '.join('?' * len(topics))})"
        self._values: list[str | int] = [*topics]
        for (topic, partition), offset in start.items():
            newest = self._newest("topic = ? AND partition = ?", [topic, partition])
            if topic in topics and newest >= offset:
                self._wanted += " AND NOT (topic = ? AND partition = ? AND offset < ?)"
                self._values += [topic, partition, offset]
        self._end = self._newest(self._wanted, self._values)

    def _newest(self, wanted: str, values: list[str | int]) -> int:
        found = self._connection.execute(
            f"SELECT max(offset) FROM event WHERE {wanted}",  # noqa: S608 - placeholders alone
            values,
        ).fetchone()[0]
        return found or 0

    def poll(self, timeout: float) -> Delivery | None:
        """Return the next delivery, or None after `timeout` seconds without one."""
        end = time.monotonic() + timeout
        with available():
            while True:
                self._watch.news()
                delivery = self._next()
                left = end - time.monotonic()
                if delivery is not None or left <= 0:
                    return delivery
                self._watch.wait(left)

    def _next(self) -> Delivery | None:
        while self._page or self._fetch():
            delivery = self._page.popleft()
            self._position = delivery.offset
            if readable(delivery):
                return delivery
        return None

    def _fetch(self) -> bool:
        # By rowid: an index on the topic would be sorted anew at each look.
        rows = self._connection.execute(
            f"SELECT {COLUMNS} FROM event NOT INDEXED WHERE {self._wanted} AND offset > ? "  # noqa: S608 - no values
            "ORDER BY offset LIMIT ?",
            (*self._values, self._position, _PAGE),
        ).fetchall()
        self._page.extend(decoded(row) for row in rows)
        return bool(rows)

    @property
    def caught_up(self) -> bool:
        """Whether all that was in the topics when the tail was opened has been returned."""
        return self._position >= self._end

    def close(self) -> None:
        """Release the file."""
        self._connection.close()


def _made(headers: bytes) -> str:
    """Return when an event was made, RFC 3339 in UTC; empty, before all others, where it does not say so."""
    try:
        given = dict(msgspec.msgpack.decode(headers, type=Headers))
        return datetime.fromisoformat(given["ce_time"].decode()).astimezone(UTC).isoformat()
    except (msgspec.DecodeError, KeyError, ValueError, OverflowError):
        return ""
