"""The embedded bus: one SQLite file, shared by all processes of one machine.

For a single machine with nothing installed. It is durable (write-ahead log, `synchronous=FULL`: a published
event survives a power cut) and has consumer groups, but one writer at a time and no retention; the file must be
on a local disk, for SQLite's locks do not hold on network file systems. Kafka is for the rest.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Delivery
from auscult.bus.record import publishing, readable
from auscult.bus.sqlite_file import COLUMNS, Watch, available, connect, decoded, prepare, transaction
from auscult.bus.sqlite_group import SqliteSubscription
from auscult.bus.topics import Topic

_PAGE = 100
"""Events that a tail or `read` fetches at once."""

LEASE = 10.0
"""Seconds after which the partitions of a process that died go to another."""


class SqliteBus:
    """A Bus in the file `path`. `partitions`: how many consumers of a group can share a topic, for a new file."""

    def __init__(self, path: Path | str, partitions: int = 4, *, lease: float = LEASE) -> None:
        self._path = Path(path)
        self._partitions = prepare(self._path, partitions)
        self._lease = lease
        self._lock = threading.Lock()
        self._connection = connect(self._path)

    def publish(self, topic: Topic, event: CloudEvent, *, key: str) -> None:
        """Append `event`; on disk on return. On a compacted topic, the key's older events are removed."""
        # crc32 is the same in every process and Python version, which hash() is not.
        partition = zlib.crc32(key.encode()) % self._partitions
        with publishing(topic, event) as sent, available(), self._lock, transaction(self._connection):
            if topic.compacted:
                self._connection.execute(
                    "DELETE FROM event WHERE topic = ? AND key = ? AND compacted", (topic.name, key)
                )
            self._connection.execute(
                "INSERT INTO event (topic, compacted, partition, key, headers, data) VALUES (?, ?, ?, ?, ?, ?)",
                (topic.name, topic.compacted, partition, key, msgspec.msgpack.encode(sent.to_headers()), sent.data),
            )

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

    @contextmanager
    def tail(self, *topics: Topic) -> Iterator[SqliteTail]:
        """Read from the beginning, without a group."""
        with available():
            tail = SqliteTail(self._path, [topic.name for topic in topics])
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

    def __init__(self, path: Path, topics: list[str]) -> None:
        self._connection = connect(path)
        self._watch = Watch(self._connection)
        self._topics = topics
        self._page: deque[Delivery] = deque()
        self._position = 0
        self._wanted = f"topic IN ({', '.join('?' * len(topics))})"
        newest = self._connection.execute(
            f"SELECT max(offset) FROM event WHERE {self._wanted}",  # noqa: S608 - placeholders alone
            topics,
        ).fetchone()[0]
        self._end = newest or 0

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
            (*self._topics, self._position, _PAGE),
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
