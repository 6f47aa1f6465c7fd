"""Cards of a million patients in memory: each is kept as what differs from the first card of its pathway.

Cards of one pathway say nearly the same, so with the first as the dictionary (RFC 1951 with a preset one) a card of
2.3 kB takes about 115 bytes, and is whole again in about 5 us. Everything is flat bytes: no object per card that the
garbage collector would visit.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

KEY = 16
"""Bytes of a key: a digest of tenant, study and pathway."""
WITHHELD = 255
_HEAD = struct.Struct("<HqBdIIH16sH")
_RAW = -zlib.MAX_WBITS


@dataclass(frozen=True, slots=True)
class Basis:
    """On what a card rests, shared by all cards of which that is true."""

    pathway: str
    version: str
    models: tuple[tuple[str, str], ...]
    """Name and version of each."""
    sex: str = ""
    age_band: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The models' names."""
        return tuple(name for name, _ in self.models)


@dataclass(frozen=True, slots=True)
class Held:
    """What is known of one key: its newest result. `body`: the card, packed; empty where it is withheld."""

    whose: bytes
    partition: int
    offset: int
    urgency: int
    """0 is the most urgent; WITHHELD: nobody sees it."""
    recorded: float
    """Seconds since the epoch."""
    seen: int
    """When the images were taken, or else when it was computed: seconds since the epoch."""
    basis: int
    dictionary: int
    uuid: bytes
    body: bytes

    def pack(self) -> bytes:
        """Return it as one string of bytes."""
        head = _HEAD.pack(
            self.partition,
            self.offset,
            self.urgency,
            self.recorded,
            self.seen,
            self.basis,
            self.dictionary,
            self.uuid,
            len(self.whose),
        )
        return head + self.whose + self.body

    @classmethod
    def unpack(cls, record: bytes) -> Held:
        """Read what `pack` made."""
        *head, uuid, length = _HEAD.unpack_from(record)
        start = _HEAD.size + length
        partition, offset, urgency, recorded, seen, basis, dictionary = head
        whose = record[_HEAD.size : start]
        return cls(whose, partition, offset, urgency, recorded, seen, basis, dictionary, uuid, record[start:])


class Shelf:
    """All that is held. One thread puts; any number read without a lock, for a look-up in a dict is atomic."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        """`Held` by key."""
        self.bases: list[Basis] = []
        self.dictionaries: list[bytes] = []
        self._keys: dict[bytes, bytes] = {}
        """Of each patient, one after the other."""
        self._results: dict[bytes, bytes] = {}
        """Key by card's uuid."""
        self._numbers: dict[Basis, int] = {}
        self._of_pathway: dict[str, int] = {}

    def get(self, key: bytes) -> Held | None:
        """Return what is known of `key`."""
        record = self.records.get(key)
        return None if record is None else Held.unpack(record)

    def of(self, whose: bytes) -> Iterator[Held]:
        """Yield all that is known of a patient; never another's, also while a result moves between two."""
        keys = self._keys.get(whose, b"")
        for at in range(0, len(keys), KEY):
            held = self.get(keys[at : at + KEY])
            if held is not None and held.whose == whose:
                yield held

    def by_uuid(self, uuid: bytes) -> Held | None:
        """Return the result whose card has this `uuid`."""
        key = self._results.get(uuid)
        held = self.get(key) if key else None
        return held if held is not None and held.uuid == uuid else None

    def put(self, key: bytes, held: Held) -> None:
        """Replace what is known of `key`."""
        before = self.get(key)
        self.records[key] = held.pack()
        self._index(key, held, before)

    def restore(self, key: bytes, record: bytes) -> None:
        """Put a record as it was packed before."""
        self.records[key] = record
        self._index(key, Held.unpack(record), None)

    def _index(self, key: bytes, held: Held, before: Held | None) -> None:
        if before is None or before.whose != held.whose:
            self._keys[held.whose] = self._keys.get(held.whose, b"") + key
            if before is not None:
                self._leave(before.whose, key)
        if before is None or before.uuid != held.uuid:
            self._results[held.uuid] = key
            if before is not None:
                self._results.pop(before.uuid, None)

    def _leave(self, whose: bytes, key: bytes) -> None:
        keys = self._keys[whose]
        left = b"".join(keys[at : at + KEY] for at in range(0, len(keys), KEY) if keys[at : at + KEY] != key)
        if left:
            self._keys[whose] = left
        else:
            del self._keys[whose]

    def number(self, basis: Basis) -> int:
        """Return the number under which `basis` is shared."""
        if basis not in self._numbers:
            self.bases.append(basis)
            self._numbers[basis] = len(self.bases) - 1
        return self._numbers[basis]

    def packed(self, card: bytes, pathway: str) -> tuple[int, bytes]:
        """Return a card packed, and the number of the dictionary: the first card of its pathway."""
        if pathway not in self._of_pathway:
            self.dictionaries.append(card)
            self._of_pathway[pathway] = len(self.dictionaries) - 1
        number = self._of_pathway[pathway]
        packer = zlib.compressobj(wbits=_RAW, zdict=self.dictionaries[number])
        return number, packer.compress(card) + packer.flush()

    def card(self, held: Held) -> bytes:
        """Return the card as JSON."""
        return zlib.decompressobj(_RAW, zdict=self.dictionaries[held.dictionary]).decompress(held.body)

    def resume(self, bases: list[Basis], dictionaries: list[bytes], pathways: dict[str, int]) -> None:
        """Take over the shared parts of a shelf that was saved, before its records."""
        self.bases = bases
        self.dictionaries = dictionaries
        self._numbers = {basis: number for number, basis in enumerate(bases)}
        self._of_pathway = pathways

    @property
    def pathways(self) -> dict[str, int]:
        """Number of the dictionary by pathway."""
        return dict(self._of_pathway)
