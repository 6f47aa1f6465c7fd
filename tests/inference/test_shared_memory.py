"""Regions of shared memory as the server sees them; tritonclient's use of them is in the conformance tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.shared_memory import InvalidRegionError, Regions

SHM = Path("/dev/shm")  # noqa: S108 - where Linux keeps them


@pytest.fixture
def memory() -> Iterator[Path]:
    """Return a shared memory object of two pages."""
    path = SHM / f"auscult_test_{os.getpid()}"
    path.write_bytes(bytes(8192))
    yield path
    path.unlink()


def at(name: str, offset: int, size: int) -> dict[str, pb.InferParameter]:
    """Return a tensor's parameters that name a place."""
    return {
        "shared_memory_region": pb.InferParameter(string_param=name),
        "shared_memory_offset": pb.InferParameter(int64_param=offset),
        "shared_memory_byte_size": pb.InferParameter(int64_param=size),
    }


def test_region_that_shrank_is_refused(memory: Path) -> None:
    """What a client took away, also after its request was looked at, is told to it and harms nobody else."""
    regions = Regions()
    regions.register("r", f"/{memory.name}", 0, 8192)
    place = regions.place(at("r", 4096, 4))
    across = regions.place(at("r", 4094, 4))
    assert place
    assert across
    place.write(memoryview(b"ab"))
    assert memory.read_bytes()[4096:4100] == b"ab\0\0"
    assert bytes(across.read()) == b"\0\0ab"
    os.truncate(memory, 4096)
    for shrunk in (place, across):
        with pytest.raises(InvalidRegionError, match="was made smaller"):
            shrunk.read()
        with pytest.raises(InvalidRegionError, match="was made smaller"):
            shrunk.write(memoryview(b"ab"))
    with pytest.raises(InvalidRegionError, match="was made smaller"):
        regions.place(at("r", 0, 4))
    assert memory.stat().st_size == 4096


def test_region_outlives_its_name(memory: Path) -> None:
    """A request that has a place keeps it when the region is unregistered meanwhile."""
    regions = Regions()
    regions.register("r", memory.name, 8, 8)
    place = regions.place(at("r", 0, 8))
    regions.unregister("")
    assert regions.status("") == []
    assert place is not None
    place.write(memoryview(b"12345678"))
    assert memory.read_bytes()[8:16] == b"12345678"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_memory_is_opened(kind: str, tmp_path: Path) -> None:
    """A link out of the folder, a pipe and a folder are refused, and nothing waits for them."""
    path = SHM / f"auscult_test_{os.getpid()}_{kind}"
    if kind == "link":
        (tmp_path / "file").write_bytes(bytes(8))
        path.symlink_to(tmp_path / "file")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    try:
        with pytest.raises(InvalidRegionError):
            Regions().register("r", path.name, 0, 8)
    finally:
        path.rmdir() if kind == "folder" else path.unlink()


@pytest.mark.parametrize(("offset", "size"), [(-1, 4), (0, -1), (0, 9), (8, 1), (2**63 - 1, 2**63 - 1)])
def test_place_lies_within_its_region(memory: Path, offset: int, size: int) -> None:
    """Bytes before, behind and beyond are refused."""
    regions = Regions()
    regions.register("r", memory.name, 16, 8)
    with pytest.raises(InvalidRegionError, match="do not lie within"):
        regions.place(at("r", offset, size))
