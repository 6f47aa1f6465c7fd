"""HTTP/1.1 as uvicorn speaks it, with an end to what a client may begin.

uvicorn itself waits for a head as long as its client likes, and keeps all of it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 15.0
"""Within which a request's head has to be here, from the connection or from its first byte on."""
HEAD_LIMIT = 64 * 1024
"""Bytes of a request that are no body: its head, the frames of its chunks, trailers."""
BODY_PER_FRAME = 8
"""Chunks of fewer bytes for each byte of their frames count as a head."""
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._head: asyncio.TimerHandle | None = None
        self._framing = self._body = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Await a head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Await nothing more."""
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and see that what was begun stays within bounds."""
        self._framing += len(data)
        super().data_received(data)
        if self._framing > HEAD_LIMIT + self._body // BODY_PER_FRAME and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Await the rest of a head."""
        super().on_message_begin()
        self._framing = self._body = 0
        self._await_head()

    def on_headers_complete(self) -> None:
        """Go on without a limit of time: a body has its own."""
        self._head_is_here()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Tell what is body from what is not."""
        self._framing -= len(body)
        self._body += len(body)
        super().on_body(body)

    def _await_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _head_is_here(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
