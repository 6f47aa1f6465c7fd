"""The Minimal Lower Layer Protocol: `<VT> message <FS><CR>` (HL7 v2.5.1, C.4; MLLP release 1)."""

from __future__ import annotations

from dataclasses import dataclass, field

START, END, RETURN = 0x0B, 0x1C, 0x0D
_BETWEEN = b"\r\n"


class TooLong(Exception):
    """A block is longer than it may be. `begin`: its first bytes."""

    def __init__(self, begin: bytes) -> None:
        super().__init__("a block is too long")
        self.begin = begin


@dataclass
class Framer:
    """Finds the blocks in what one connection brings. `largest`: bytes of a block."""

    largest: int
    stray: int = 0
    """Bytes outside of blocks, and of blocks that were begun again before they ended."""
    _inside: bool = False
    _block: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the blocks that end in `data`; TooLong where one does not end in time."""
        found: list[bytes] = []
        rest = memoryview(data).tobytes()
        while rest:
            if not self._inside:
                before, start, rest = rest.partition(bytes([START]))
                self.stray += len(before.strip(_BETWEEN))
                self._inside = bool(start)
                continue
            block, end, rest = rest.partition(bytes([END]))
            again = block.rfind(bytes([START]))
            if again >= 0:
                self.stray += len(self._block) + again
                self._block.clear()
                block = block[again + 1 :]
            self._block += block
            if len(self._block) > self.largest:
                raise TooLong(bytes(self._block[:4096]))
            if end:
                found.append(bytes(self._block))
                self._block.clear()
                self._inside = False
        return found

    @property
    def partial(self) -> bool:
        """Whether a block was begun and not ended."""
        return self._inside


def framed(message: bytes) -> bytes:
    """Return a message as a block."""
    return bytes([START]) + message + bytes([END, RETURN])
