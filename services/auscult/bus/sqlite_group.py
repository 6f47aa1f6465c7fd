"""Consumer groups on the SQLite bus: members, leases on partitions, committed offsets.

Each member writes a row; the members of a topic, sorted, take its partitions in turn. A lease says who owns
a partition and until when: it is renewed by each `poll` and, while a handler runs, by a thread. A member gives up
partitions only inside `poll`, that is between two events, so no key is ever handled by two members that live.
A member that is dead, or was stopped for longer than its lease, is replaced, and its late commit changes nothing.

Times are `time.monotonic`, which all processes of a machine share and nobody can set. After a reboot it starts
again, so a lease that seems to end later than any lease can is over, too.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from auscult.bus.contract import Delivery
from auscult.bus.record import LONGEST_HANDLING
from auscult.bus.sqlite_file import COLUMNS, Watch, available, connect, decoded, transaction
from auscult.platform.errors import Retry

_LONGEST_LEASE = 60.0

_log = logging.getLogger(__name__)


class _Place(NamedTuple):
    topic: str
    partition: int


@dataclass(slots=True)
class _Position:
    """Where this member stands in a partition since it took it: what it reads next, the last it returned."""

    next: int
    returned: int = -1


class SqliteSubscription:
    """One member of a group; used by one thread. Read `contract.Subscription`."""

    def __init__(self, path: Path, topics: list[str], group: str, *, partitions: int, lease: float) -> None:
        self._path = path
        self._topics = topics
        self._group = group
        self._partitions = partitions
        self._lease = min(lease, _LONGEST_LEASE)
        self._member = uuid.uuid4().hex
        self._held: dict[_Place, _Position] = {}
        self._roster: list[tuple[str, int, str]] = []
        self._polled = self._renewed = time.monotonic()
        self._connection = connect(path)
        self._watch = Watch(self._connection)
        self._closed = threading.Event()
        try:
            self._settle()
        except sqlite3.Error:
            self._connection.close()
            raise
        self._keeper = threading.Thread(target=self._keep, name=f"lease-{group}", daemon=True)
        self._keeper.start()

    def poll(self, timeout: float) -> Delivery | None:
        """Return the oldest event in the partitions that are ours, or None after `timeout` seconds without one."""
        end = time.monotonic() + timeout
        with available():
            while True:
                self._polled = time.monotonic()
                news, due = self._watch.news(), self._renewed + self._lease / 3
                if self._polled >= due or (news and self._roster != self._read_roster()):
                    self._settle()
                delivery = self._next()
                left = end - time.monotonic()
                if delivery is not None or left <= 0:
                    return delivery
                self._watch.wait(min(left, self._lease / 3))

    def commit(self, delivery: Delivery) -> None:
        """Store that the group handled `delivery` and all before it in its partition."""
        place = _Place(delivery.topic, delivery.partition)
        position = self._held.get(place)
        if position is None or delivery.offset > position.returned:
            return  # It was returned before the partition was lost, and perhaps taken again.
        with available(), transaction(self._connection):
            ours = self._connection.execute(
                "UPDATE lease SET next = max(next, ?) "
                "WHERE consumers = ? AND topic = ? AND partition = ? AND owner = ?",
                (delivery.offset + 1, self._group, *place, self._member),
            ).rowcount
        if not ours:
            del self._held[place]

    def rewind(self, delivery: Delivery) -> None:
        """Read its partition again from `delivery` on, where it is still ours."""
        position = self._held.get(_Place(delivery.topic, delivery.partition))
        if position is not None:
            position.next = delivery.offset

    def close(self) -> None:
        """Leave the group: the others need not wait for the leases to end."""
        self._closed.set()
        self._keeper.join()
        try:
            with available(), transaction(self._connection):
                mine = (self._group, self._member)
                self._connection.execute("DELETE FROM member WHERE consumers = ? AND member = ?", mine)
                self._connection.execute("UPDATE lease SET owner = NULL WHERE consumers = ? AND owner = ?", mine)
        except Retry as error:
            _log.warning("the group was left without notice, its leases run out by themselves: %s", error)
        finally:
            self._connection.close()

    def _next(self) -> Delivery | None:
        """Return the oldest event that is ours: offsets are one sequence over all topics and partitions."""
        oldest: tuple[int, _Position] | None = None
        for place, position in self._held.items():
            first = self._connection.execute(
                "SELECT min(offset) FROM event WHERE topic = ? AND partition = ? AND offset >= ?",
                (*place, position.next),
            ).fetchone()[0]
            if first is not None and (oldest is None or first < oldest[0]):
                oldest = first, position
        if oldest is None:
            return None
        offset, position = oldest
        rows = self._connection.execute(f"SELECT {COLUMNS} FROM event WHERE offset = ?", (offset,)).fetchall()  # noqa: S608
        if not rows:
            return self._next()  # Compaction removed it just now, so there is a newer one.
        position.next, position.returned = offset + 1, max(offset, position.returned)
        return decoded(rows[0])

    def _read_roster(self) -> list[tuple[str, int, str]]:
        """Return who is in the group and who owns what, to see cheaply whether there is anything to do."""
        return self._connection.execute(
            "SELECT topic, -1, member FROM member WHERE consumers = ? "
            "UNION ALL SELECT topic, partition, owner FROM lease WHERE consumers = ? ORDER BY 1, 2, 3",
            (self._group, self._group),
        ).fetchall()

    def _settle(self) -> None:
        """Renew the membership, take the partitions that are our share and free, give back those that are not."""
        now = time.monotonic()
        until = now + self._lease
        with transaction(self._connection):
            self._connection.execute(
                "DELETE FROM member WHERE consumers = ? AND until NOT BETWEEN ? AND ?",
                (self._group, now, now + _LONGEST_LEASE),
            )
            self._connection.execute(
                "UPDATE lease SET owner = NULL WHERE consumers = ? AND owner <> ? AND until NOT BETWEEN ? AND ?",
                (self._group, self._member, now, now + _LONGEST_LEASE),
            )
            held: dict[_Place, _Position] = {}
            for topic in self._topics:
                self._connection.execute(
                    "INSERT OR REPLACE INTO member VALUES (?, ?, ?, ?)", (self._group, topic, self._member, until)
                )
                held |= self._take_share(topic, until)
            roster = self._read_roster()
        # Only now: what the file did not take, we do not hold.
        self._held, self._roster, self._renewed = held, roster, now

    def _take_share(self, topic: str, until: float) -> dict[_Place, _Position]:
        """Write the leases of one topic as they should be, as far as they are ours or nobody's.

        Return the partitions that are ours now; one that is newly taken starts where the group committed.
        """
        members = [
            row[0]
            for row in self._connection.execute(
                "SELECT member FROM member WHERE consumers = ? AND topic = ? ORDER BY member", (self._group, topic)
            )
        ]
        turn = members.index(self._member)
        held = {}
        for partition in range(self._partitions):
            lease = (self._group, topic, partition)
            self._connection.execute(
                "INSERT OR IGNORE INTO lease (consumers, topic, partition) VALUES (?, ?, ?)", lease
            )
            start, owner = self._connection.execute(
                "SELECT next, owner FROM lease WHERE consumers = ? AND topic = ? AND partition = ?", lease
            ).fetchone()
            wanted = partition % len(members) == turn
            if owner == self._member or (wanted and owner is None):
                self._connection.execute(
                    "UPDATE lease SET owner = ?, until = ? WHERE consumers = ? AND topic = ? AND partition = ?",
                    (self._member if wanted else None, until, *lease),
                )
                if wanted:
                    place = _Place(topic, partition)
                    known = self._held.get(place) if owner == self._member else None
                    held[place] = known or _Position(start)
        return held

    def _keep(self) -> None:
        """Renew while a handler runs. A handler that hangs for LONGEST_HANDLING loses its partitions."""
        connection = connect(self._path)
        # A renewal that a power cut undoes harms nobody, so it does not wait for the disk.
        connection.execute("PRAGMA synchronous = NORMAL")
        try:
            while not self._closed.wait(self._lease / 3):
                now = time.monotonic()
                if now - self._renewed < self._lease / 3 or now - self._polled > LONGEST_HANDLING:
                    continue
                try:
                    with available(), transaction(connection):
                        renewal = (now + self._lease, self._group, self._member)
                        connection.execute("UPDATE lease SET until = ? WHERE consumers = ? AND owner = ?", renewal)
                        connection.execute("UPDATE member SET until = ? WHERE consumers = ? AND member = ?", renewal)
                except Retry as error:
                    _log.warning("a lease was not renewed, it is tried again: %s", error)
        finally:
            connection.close()
