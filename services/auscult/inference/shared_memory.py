"""System shared memory: regions that a client on this machine made, and the places of tensors in them.

The client makes a region with shm_open and registers it under a name; its requests then name where in a region an
input lies or an output goes, and the tensor itself never passes through the connection. Regions are read and written
as files, not mapped: of a mapped one that the client makes smaller during a run, the next touch ends this process.
"""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auscult.inference.pb import open_inference_grpc_pb2 as pb

_SHM = Path("/dev/shm")  # noqa: S108 - where Linux keeps the regions of shm_open


class RegionExistsError(Exception):
    """A region of that name is registered already."""


class UnknownRegionError(LookupError):
    """No region of that name is registered."""


class InvalidRegionError(ValueError):
    """The region, or the place in it, cannot be used; the text says why."""


class _Memory:
    """An open shared memory object, closed when nothing has it any more."""

    def __init__(self, opened: int) -> None:
        self.opened = opened
        weakref.finalize(self, os.close, opened)


@dataclass(frozen=True, slots=True)
class Region:
    """A registered part of a shared memory object: `byte_size` bytes from `offset` on."""

    name: str
    key: str
    offset: int
    byte_size: int
    memory: _Memory

    def check(self, offset: int, byte_size: int) -> None:
        """InvalidRegionError where a part is not within the region, or the region is not there any more."""
        if offset < 0 or byte_size < 0 or offset + byte_size > self.byte_size:
            raise InvalidRegionError(
                f"{byte_size} bytes at offset {offset} do not lie within shared memory region {self.name!r} "
                f"of {self.byte_size} bytes"
            )
        if os.fstat(self.memory.opened).st_size < self.offset + self.byte_size:
            raise self.shrunk()

    def shrunk(self) -> InvalidRegionError:
        """Return what is told of a region that its client made smaller."""
        return InvalidRegionError(f"shared memory region {self.name!r} was made smaller since it was registered")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies, or goes: `byte_size` bytes from `offset` on in a region."""

    region: Region
    offset: int
    byte_size: int

    def read(self) -> memoryview:
        """Return a copy of what is there; InvalidRegionError where the region has become too small."""
        copy = np.empty(self.byte_size, np.uint8)
        rest, start = copy.data, self.region.offset + self.offset
        while rest:
            # Linux reads and writes 2 GB at a time.
            done = os.preadv(self.region.memory.opened, [rest], start)
            if not done:
                raise self.region.shrunk()
            rest, start = rest[done:], start + done
        return copy.data

    def write(self, raw: memoryview) -> None:
        """Put `raw` at the start of the place; InvalidRegionError where it does not fit, or memory is full."""
        if raw.nbytes > self.byte_size:
            raise InvalidRegionError(
                f"{self.byte_size} bytes of shared memory region {self.region.name!r} given, {raw.nbytes} needed"
            )
        # To write beyond its end would make the region larger again.
        self.region.check(self.offset, self.byte_size)
        rest, start = raw, self.region.offset + self.offset
        try:
            while rest:
                done = os.pwritev(self.region.memory.opened, [rest], start)
                rest, start = rest[done:], start + done
        except OSError as error:
            raise InvalidRegionError(
                f"cannot write to shared memory region {self.region.name!r}: {error.strerror}"
            ) from None


class Regions:
    """The registered regions, by name. A region that is unregistered stays open until its last run ends."""

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}

    def place(self, parameters: Mapping[str, pb.InferParameter]) -> Place | None:
        """Return the place that a tensor's parameters name, None where they name none.

        UnknownRegionError or InvalidRegionError where it cannot be used.
        """
        if "shared_memory_region" not in parameters:
            return None
        name = parameters["shared_memory_region"].string_param
        if name not in self._regions:
            raise UnknownRegionError(f"no shared memory region {name!r} is registered")
        if "shared_memory_byte_size" not in parameters:
            raise InvalidRegionError(f"shared_memory_byte_size is needed beside shared memory region {name!r}")
        place = Place(
            self._regions[name],
            parameters["shared_memory_offset"].int64_param if "shared_memory_offset" in parameters else 0,
            parameters["shared_memory_byte_size"].int64_param,
        )
        place.region.check(place.offset, place.byte_size)
        return place

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open a shared memory object. RegionExistsError; InvalidRegionError where it is missing or too small."""
        if not name:
            raise InvalidRegionError("a shared memory region needs a name")
        if name in self._regions:
            raise RegionExistsError(f"shared memory region {name!r} is registered already; unregister it first")
        self._regions[name] = Region(name, key, offset, byte_size, _open(key, offset + byte_size, byte_size))

    def unregister(self, name: str) -> None:
        """Forget a region, or all where `name` is empty. One that is not registered is none to forget."""
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def status(self, name: str) -> list[Region]:
        """Return the region, or all where `name` is empty; UnknownRegionError."""
        if not name:
            return list(self._regions.values())
        if name not in self._regions:
            raise UnknownRegionError(f"no shared memory region {name!r} is registered")
        return [self._regions[name]]


def _open(key: str, end: int, byte_size: int) -> _Memory:
    file = key.removeprefix("/")
    if not file or "/" in file or "\0" in file or file in (".", ".."):
        raise InvalidRegionError(f"{key!r} is not a key of shared memory: a slash and a name without slashes")
    if not byte_size:
        raise InvalidRegionError("a shared memory region has at least one byte")
    try:
        # Without O_NONBLOCK, to open a pipe of that name would wait for its other end.
        opened = os.open(_SHM / file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidRegionError(f"cannot open shared memory {key!r}: {error.strerror}") from None
    memory = _Memory(opened)
    status = os.fstat(opened)
    if not stat.S_ISREG(status.st_mode) or status.st_size < end:
        raise InvalidRegionError(f"shared memory {key!r} has {status.st_size} bytes, {end} are needed")
    return memory
