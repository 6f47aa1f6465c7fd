"""A connection's PDUs (PS3.8, 9.3), held to limits before pynetdicom decodes them.

It makes objects of every item and value that a PDU has: of one MiB of empty ones they are a hundred.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

MAX_PDU = 1024 * 1024
"""Bytes of a PDU that we ask for: a CT slice comes in one piece, and little time is spent between pieces."""
LARGEST_PDU = MAX_PDU + 1024
"""Bytes of a P-DATA-TF PDU that we read, whatever length its sender announces."""
LARGEST_REQUEST = 256 * 1024
"""Bytes of any other PDU: 128 presentation contexts with all transfer syntaxes of the standard have 230,000."""
MOST_ITEMS = 8192
"""Items and sub-items of an association request; those contexts have 7,900."""
MOST_VALUES = 256
"""Presentation data values of a PDU; senders put one or two into it."""

_HEAD = 6
_REQUEST, _DATA = 0x01, 0x04
_CONTEXT, _USER = 0x20, 0x50
_FIRST_ITEM = 68


class Reader:
    """Stands in for the `recv` of one connection's `AssociationSocket`.

    `patience`: seconds for what is asked for to come whole. `gone`: called when nothing more is to come.
    """

    def __init__(self, connection: socket.socket, patience: Callable[[], float], gone: Callable[[], Any]) -> None:
        self._connection, self._patience, self._gone = connection, patience, gone
        self._kind: int | None = None

    def __call__(self, size: int) -> bytearray:
        """Read `size` bytes, fewer where the peer closes the connection.

        OSError where no PDU may be that long or have so many parts, or where it does not come whole in time,
        however it trickles.
        """
        try:
            data = self._next(size)
        except OSError:
            self._gone()
            raise
        if len(data) < size:
            self._gone()
        return data

    def _next(self, size: int) -> bytearray:
        if self._kind is None:
            data = self._exactly(_HEAD)
            self._kind = data[0] if data else None
            return data
        kind, self._kind = self._kind, None
        if size > (LARGEST_PDU if kind == _DATA else LARGEST_REQUEST):
            raise self._hung_up("a longer PDU than it may")
        body = self._exactly(size)
        if (kind == _REQUEST and _items(body) > MOST_ITEMS) or (kind == _DATA and _values(body) > MOST_VALUES):
            raise self._hung_up("a PDU of more parts than it may have")
        return body

    def _exactly(self, size: int) -> bytearray:
        end = time.monotonic() + self._patience()
        data = bytearray(size)
        view, filled = memoryview(data), 0
        while filled < size:
            count = self._connection.recv_into(view[filled:])
            if not count:
                return data[:filled]
            filled += count
            if filled < size and time.monotonic() > end:
                raise TimeoutError("a PDU did not come whole in time")
        return data

    def _hung_up(self, what: str) -> OSError:
        self._connection.shutdown(socket.SHUT_RDWR)
        return OSError(f"a peer sent {what}")


def _items(body: bytearray) -> int:
    """Count an association request's items with those inside them; no further than `MOST_ITEMS`."""
    count, open_until, at = 0, [len(body)], _FIRST_ITEM
    while open_until and count <= MOST_ITEMS:
        if at + 4 > open_until[-1]:
            at = open_until.pop()
            continue
        kind, stop = body[at], min(open_until[-1], at + 4 + int.from_bytes(body[at + 2 : at + 4], "big"))
        count += 1
        if len(open_until) == 1 and kind in {_CONTEXT, _USER}:
            open_until.append(stop)
            at += 8 if kind == _CONTEXT else 4
        else:
            at = stop
    return count


def _values(body: bytearray) -> int:
    """Count a P-DATA-TF PDU's presentation data values; no further than `MOST_VALUES`."""
    count = at = 0
    while at < len(body) and count <= MOST_VALUES:
        at += 4 + int.from_bytes(body[at : at + 4], "big")
        count += 1
    return count
