"""A DICOM peer without manners: the upper layer (PS3.8) and DIMSE (PS3.7), written byte by byte."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRLittleEndian

ASSOCIATE, ACCEPTED, DATA, RELEASE = 1, 2, 4, 5
"""PDU types (PS3.8, 9.3)."""
COMMAND, LAST = 1, 2
"""Bits of a PDV's message control header (PS3.8, E.2)."""
FIND_STUDY_ROOT = UID("1.2.840.10008.5.1.4.1.2.2.1")
STORE, FIND, CREATE, ECHO = 0x0001, 0x0020, 0x0140, 0x0030
"""Commands (PS3.7, E.1)."""
PATIENCE = 30.0
"""Seconds within which every answer must come."""
FRAGMENT = 256 * 1024


def pdu(kind: int, content: bytes, length: int | None = None) -> bytes:
    """Return a PDU, with another length than its own where one is given."""
    return struct.pack(">BxL", kind, len(content) if length is None else length) + content


def item(kind: int, content: bytes) -> bytes:
    """Return an item of an association request (PS3.8, 9.3.2)."""
    return struct.pack(">BxH", kind, len(content)) + content


def association_request(contexts: list[tuple[str, str]], *, called: str = "AUSCULT", more: bytes = b"") -> bytes:
    """Return an A-ASSOCIATE-RQ. `contexts`: abstract and transfer syntax; `more`: items after all others."""
    asked = b"".join(
        item(0x20, struct.pack(">Bxxx", 2 * index + 1) + item(0x30, abstract.encode()) + item(0x40, syntax.encode()))
        for index, (abstract, syntax) in enumerate(contexts)
    )
    user = item(0x50, item(0x51, struct.pack(">L", 0)) + item(0x52, b"1.2.3.4"))
    head = struct.pack(">Hxx16s16s32x", 1, called.ljust(16).encode(), b"HOSTILE".ljust(16))
    return head + item(0x10, b"1.2.840.10008.3.1.1.1") + asked + user + more


def pdv(context: int, control: int, content: bytes) -> bytes:
    """Return one presentation data value (PS3.8, 9.3.5.1)."""
    return struct.pack(">LBB", len(content) + 2, context, control) + content


def command(kind: int, sop_class: str, sop_instance: str = "") -> bytes:
    """Return a request's command set; but for C-ECHO a data set follows it."""
    told = Dataset()
    told.AffectedSOPClassUID, told.CommandField, told.MessageID, told.Priority = sop_class, kind, 1, 0
    told.CommandDataSetType = 0x0101 if kind == ECHO else 0x0001
    if sop_instance:
        told.AffectedSOPInstanceUID = sop_instance
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_dataset(buffer, told)
    encoded = buffer.getvalue()
    return struct.pack("<HHLL", 0, 0, 4, len(encoded)) + encoded


class Peer:
    """One connection. `address`: where it calls from, any of the loopback interface."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE, source_address=(address, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        # Until the other side is done with it, the connection counts among those that it has.
        with self._socket, suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            self.hung_up()

    def send(self, data: bytes) -> bool:
        """Send; say whether the other side still took it."""
        with suppress(OSError):
            self._socket.sendall(data)
            return True
        return False

    def hung_up(self) -> bool:
        """Wait until the other side has closed the connection; TimeoutError where it does not."""
        with suppress(ConnectionError):
            while self._socket.recv(65536):
                pass
        return True

    def receive(self) -> tuple[int, bytes]:
        """Return the next PDU; 0 where there is none to come."""
        with suppress(ConnectionError):
            head = self._exactly(6)
            if len(head) == 6:
                kind, length = struct.unpack(">BxL", head)
                return kind, self._exactly(length)
        return 0, b""

    def associate(self, sop_class: str, syntax: str = ExplicitVRLittleEndian) -> bool:
        """Ask for an association with one presentation context; say whether it is accepted."""
        self.send(pdu(ASSOCIATE, association_request([(sop_class, syntax)])))
        kind, told = self.receive()
        at = told.find(b"\x21\x00")
        return kind == ACCEPTED and told[at + 6] == 0

    def ask(self, kind: int, sop_class: str, data_set: bytes, sop_instance: str = "") -> int | None:
        """Send a request and return the last status that answers it; None where the connection was closed."""
        self.send(pdu(DATA, pdv(1, COMMAND | LAST, command(kind, sop_class, sop_instance))))
        for at in range(0, len(data_set), FRAGMENT):
            last = LAST if at + FRAGMENT >= len(data_set) else 0
            if not self.send(pdu(DATA, pdv(1, last, data_set[at : at + FRAGMENT]))):
                return None
        if not data_set and kind != ECHO:
            self.send(pdu(DATA, pdv(1, LAST, b"")))
        return self.status()

    def status(self) -> int | None:
        """Read answers until the last one."""
        while True:
            kind, content = self.receive()
            if kind != DATA:
                return None
            at = content.find(struct.pack("<HHL", 0x0000, 0x0900, 2))
            if content[5] & COMMAND and at >= 0:
                told = int.from_bytes(content[at + 8 : at + 10], "little")
                if told not in {0xFF00, 0xFF01}:
                    return told

    def release(self) -> None:
        """End the association in order."""
        self.send(pdu(RELEASE, bytes(4)))
        self.hung_up()

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size and (piece := self._socket.recv(size - len(data))):
            data += piece
        return bytes(data)


def implicit(*elements: tuple[int, bytes]) -> bytes:
    """Return elements in Implicit VR Little Endian."""
    return b"".join(struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value for tag, value in elements)
