"""The SQLite file under the embedded bus: its tables, how it is opened, and waiting for what others write."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from auscult.bus.cloudevents import Headers
from auscult.bus.contract import Delivery
from auscult.bus.record import received
from auscult.platform.errors import RefuseToStart, Retry

# `offset` is one sequence for the whole file. AUTOINCREMENT never gives a number twice, so offsets grow within
# a partition even where compaction removed the newest row; they have gaps, as Kafka's have.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS event (
    offset INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL, compacted INTEGER NOT NULL, partition INTEGER NOT NULL,
    key TEXT NOT NULL, headers BLOB NOT NULL, data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS event_partition ON event (topic, partition);
CREATE INDEX IF NOT EXISTS event_key ON event (topic, key) WHERE compacted;
CREATE TABLE IF NOT EXISTS member (
    consumers TEXT, topic TEXT, member TEXT, until REAL NOT NULL,
    PRIMARY KEY (consumers, topic, member)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lease (
    consumers TEXT, topic TEXT, partition INTEGER,
    next INTEGER NOT NULL DEFAULT 0, owner TEXT, until REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (consumers, topic, partition)
) WITHOUT ROWID;
"""

_BUSY_SECONDS = 5.0
_FIRST_NAP, _LONG_NAP, _QUIET = 0.002, 0.005, 1.0
"""Seconds between two looks for news, at first and after `_QUIET` seconds without any."""


def prepare(path: Path, partitions: int) -> int:
    """Make the file if it is new and return its number of partitions.

    An existing file keeps the number it was made with: with another one, a key's events would lie in two
    partitions and lose their order. RefuseToStart where the path cannot hold a database.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Only this account reads it: keys hold study UIDs. SQLite gives its side files the same mode.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = connect(path)
        try:
            _use_wal(connection)
            with transaction(connection):
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute("INSERT OR IGNORE INTO setting VALUES ('partitions', ?)", (partitions,))
            return int(connection.execute("SELECT value FROM setting WHERE name = 'partitions'").fetchone()[0])
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        raise RefuseToStart(
            "bus-unusable",
            f"the bus file cannot be opened ({_name(error)}); set AUSCULT_BUS_URL to a writable path on a local disk",
        ) from None


def connect(path: Path) -> sqlite3.Connection:
    """Open the file: autocommit, so that transactions are explicit; every commit is on disk before it returns."""
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging; SQLite's own waiting does not cover processes that do so at one time."""
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(_LONG_NAP)
        else:
            return


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run a block as one write transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@contextmanager
def available() -> Iterator[None]:
    """Turn what the disk or another process does to us into Retry; a wrong statement stays the bug that it is."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        raise Retry(
            "bus-unavailable",
            f"the bus file could not be used ({_name(error)}); check the disk's free space and health",
        ) from None


COLUMNS = "topic, partition, offset, key, headers, data"
"""What `decoded` reads."""


def decoded(row: tuple[str, int, int, str, bytes, bytes]) -> Delivery:
    """Return a row of COLUMNS as a delivery."""
    topic, partition, offset, key, headers, data = row
    try:
        given: Headers | None = msgspec.msgpack.decode(headers, type=Headers)
    except msgspec.DecodeError:
        given = None
    return received(topic, partition, offset, key=key.encode(), headers=given, data=data)


def _name(error: Exception) -> str:
    """Name an error without its text, which may hold a path or a value."""
    return getattr(error, "sqlite_errorname", None) or type(error).__name__


class Watch:
    """Tells when another connection, in this process or another, has committed.

    `PRAGMA data_version` reads a counter in shared memory, no disk. Looking every few milliseconds costs a quiet
    process one to two percent of a core, and brings an event across in about two milliseconds.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._seen = -1
        self._seen_at = time.monotonic()

    def news(self) -> bool:
        """Whether there was a commit since the last call."""
        version = self._version()
        if version == self._seen:
            return False
        self._seen, self._seen_at = version, time.monotonic()
        return True

    def wait(self, seconds: float) -> None:
        """Return at the first commit that `news` has not told yet, at the latest after `seconds`."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end and self._version() == self._seen:
            time.sleep(min(_FIRST_NAP if now - self._seen_at < _QUIET else _LONG_NAP, end - now))

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
