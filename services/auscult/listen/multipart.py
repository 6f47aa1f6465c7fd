"""multipart/related (RFC 2387, RFC 2046), read as it comes: a part at a time, never the whole request."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from email.message import Message

from auscult.platform.errors import Refused

LARGEST_HEAD = 16 * 1024
"""Bytes of a part's headers."""
LONGEST_BOUNDARY = 200
"""RFC 2046 allows 70 characters, Orthanc sends 73."""
BAD_REQUEST, UNSUPPORTED = 400, 415
"""HTTP statuses."""


def boundary(content_type: str) -> bytes:
    """Return the boundary of a multipart/related request of DICOM files. Refused: `unsupported-media-type`."""
    message = Message()
    message["Content-Type"] = content_type
    kind = message.get_param("type")
    told = message.get_boundary()
    if (
        message.get_content_type() != "multipart/related"
        or kind != "application/dicom"
        or not told
        or len(told) > LONGEST_BOUNDARY
    ):
        raise Refused(
            "unsupported-media-type",
            'send multipart/related; type="application/dicom" with a boundary (PS3.18, 10.5.1)',
            status=UNSUPPORTED,
        )
    return told.encode("ascii", "replace")


async def parts(stream: AsyncIterator[bytes], mark: bytes) -> AsyncIterator[bytes | None]:
    """Yield each part's bytes in pieces, and None after each. Refused (`malformed-multipart`).

    Parts of another type than application/dicom are refused: `unsupported-media-type`.
    """
    delimiter = b"\r\n--" + mark
    # The first delimiter needs no line before it.
    buffer, inside = bytearray(b"\r\n"), False
    async for chunk in stream:
        buffer += chunk
        while True:
            if inside:
                at = buffer.find(delimiter)
                if at < 0:
                    # A delimiter may have begun at the end of what came.
                    if len(buffer) > len(delimiter):
                        yield bytes(buffer[: -len(delimiter)])
                        del buffer[: -len(delimiter)]
                    break
                yield bytes(buffer[:at])
                yield None
                del buffer[:at]
                inside = False
            at = buffer.find(delimiter)
            if at < 0:
                del buffer[: -len(delimiter)]
                break
            rest = buffer[at + len(delimiter) :]
            if rest[:2] == b"--":
                return
            end = rest.find(b"\r\n\r\n")
            if end < 0:
                if len(rest) > LARGEST_HEAD:
                    raise _malformed()
                break
            _check_head(bytes(rest[:end]))
            del buffer[: at + len(delimiter) + end + 4]
            inside = True
    raise _malformed()


def _check_head(head: bytes) -> None:
    kind = re.search(rb"(?im)^content-type:[ \t]*([^;\r\n]*)", head)
    if kind is not None and kind[1].strip().lower() != b"application/dicom":
        raise Refused("unsupported-media-type", "a part is no application/dicom", status=UNSUPPORTED)


def _malformed() -> Refused:
    return Refused(
        "malformed-multipart", "the request ends before its closing delimiter; send it again", status=BAD_REQUEST
    )
