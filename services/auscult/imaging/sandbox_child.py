"""What runs in a child of `sandbox`: the tasks, and the limits under which they run."""

from __future__ import annotations

import json
import resource
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
from pydicom import Dataset, dcmread

from auscult.imaging.compressed import decode
from auscult.imaging.drawn import Drawn, Grid, drawn
from auscult.imaging.header import InstanceHeader
from auscult.imaging.sandbox import HEADER, IDLE, SECONDS, Answer, Request
from auscult.imaging.transcoding import encapsulated, explicit, octets
from auscult.platform.errors import DeadLetter, Refused

Source = bytes | str
BULK = 4096
"""Bytes of a binary value above which it is left out of an instance's attributes."""


def _header(source: Source) -> InstanceHeader:
    return InstanceHeader.read(Path(source) if isinstance(source, str) else source)


def _regions(path: str, grid: Any, on: list[str]) -> list[Drawn]:
    return drawn(Path(path), msgspec.convert(grid, Grid), on)


def _data_set(source: Source) -> Dataset:
    # Of a FileDataset the file meta information counts, too.
    return Dataset(dcmread(source if isinstance(source, str) else BytesIO(source)))


def _attributes(path: str, keywords: list[str]) -> str:
    """Return the DICOM JSON model of these attributes, or of all but bulk data."""
    dataset: Dataset = dcmread(path, stop_before_pixels=True, specific_tags=keywords or None)
    if keywords:
        dataset = Dataset({element.tag: element for element in dataset if element.keyword in keywords})
    told = dataset.to_json_dict(
        bulk_data_threshold=BULK, bulk_data_element_handler=lambda _: "", suppress_invalid_tags=True
    )
    return json.dumps(told)


TASKS: dict[str, Callable[..., Any]] = {
    IDLE: lambda: None,
    "header": _header,
    "attributes": _attributes,
    "same": lambda first, second: _data_set(first) == _data_set(second),
    "frames": lambda path, first, count: decode(Path(path), first, count),
    "regions": _regions,
    "octets": lambda path, number: octets(Path(path), number),
    "encapsulated": lambda path, number, frames: encapsulated(Path(path), number, frames),
    "explicit": lambda path: explicit(Path(path)),
}


def main() -> None:
    """Answer requests on the socket that is standard input, until it is closed."""
    memory = int(sys.argv[1])
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(limit, (value, value))
    warnings.simplefilter("ignore")
    line = socket.socket(fileno=0)
    with line:
        while header := _read(line, HEADER.size):
            (length,) = HEADER.unpack(header)
            # Where the parent is gone, too, nothing else would end a loop.
            signal.alarm(int(SECONDS) + 5)
            answer = _answer(_read(line, length))
            signal.alarm(0)
            line.sendall(HEADER.pack(len(answer)))
            line.sendall(answer)


def _answer(data: bytes) -> bytes:
    encode = msgspec.msgpack.encode
    try:
        request = msgspec.msgpack.decode(data, type=Request)
        return encode(Answer(msgspec.Raw(encode(TASKS[request.task](*request.arguments)))))
    except Refused as refused:
        return encode(
            Answer(problem="refused", reason=refused.reason, message=str(refused.args[0]), status=refused.status)
        )
    except DeadLetter as letter:
        return encode(Answer(problem="dead-letter", reason=letter.reason, message=str(letter.args[0])))
    except (MemoryError, RecursionError):
        return encode(Answer(problem="memory"))
    except Exception as error:  # noqa: BLE001 - parsers raise many types; their texts may quote a patient's values
        return encode(Answer(problem=type(error).__name__))


def _read(line: socket.socket, size: int) -> bytes:
    """Return `size` bytes; none where the parent is gone."""
    parts = bytearray()
    while len(parts) < size:
        part = line.recv(min(size - len(parts), 1 << 20))
        if not part:
            return b""
        parts += part
    return bytes(parts)


if __name__ == "__main__":
    main()
