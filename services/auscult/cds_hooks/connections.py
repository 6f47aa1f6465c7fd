"""HTTP/1.1 as uvicorn speaks it, with bounds for clients that mean harm, and a short way to what is in memory.

The short way: a call whose head and body are here, on a connection that waits for nothing else and stays open, is
answered in the parser's callback. There is no task, no ASGI message and no second event for it, which cost more than
the look-up. Everything else goes on as uvicorn does it, also what was held back and turned out to take longer.

A request to go on in another protocol is answered in this one (RFC 9110, section 7.8): Java's own client offers
HTTP/2 with its first call, and the parser would take the body for the other protocol's.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable, Container, Sequence
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from auscult.cds_hooks.replies import Header, Reply

HEAD_SECONDS = 10.0
"""Within which a request's head has to be here, from the connection or from its first byte on."""
HEAD_LIMIT = 64 * 1024
"""Bytes of a request that are no body, heads and trailers, beyond what comes in one read."""
HELD_SECONDS = 0.2
"""How long the body may come after the head before the call goes the long way, where it has its own limits."""
HELD_LIMIT = 64 * 1024
"""Bytes of a body that is held."""
MOST = 10_000
"""Connections at one time, or fewer where the process may not have so many files."""
SPARED = 100
"""Files that the rest of the process may open."""
_OFFER = frozenset({b"connection", b"upgrade", b"http2-settings"})
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_log = logging.getLogger(__name__)

AtOnce = Callable[[bytes, Sequence[Header], bytes], Reply | None]
"""Answers by path, headers and body, or None where it takes more than memory."""


class HookProtocol(HttpToolsProtocol):
    """One connection. `paths`: what may be answered `at_once`."""

    def __init__(self, paths: Container[bytes], at_once: AtOnce, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._paths = paths
        self._at_once = at_once
        self._held: bytearray | None = None
        """The body of a call that may be answered at once, as far as it is here."""
        self._hold: asyncio.TimerHandle | None = None
        self._had_turn = False
        """Whether a call of this read was answered: who sends many at once leaves the loop to others in between."""
        self._framing = 0
        """Bytes that were read and are no body."""
        self._begun = False
        """Whether a part of a head is here."""
        self._head_end = 0.0
        """When the head that is awaited has to be here; 0: none is."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Take the connection, or close it where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            _log.warning("a connection was closed at once: there are %d", len(self.connections) - 1)
            transport.abort()
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what was begun."""
        self._let_go()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and see that what was begun has an end."""
        self._had_turn = False
        self._framing += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except HttpParserError:
            self.send_400_response("this is not HTTP/1.1")
        if self.transport.is_closing():
            return
        if self._framing > HEAD_LIMIT:
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        elif self._held is not None:
            if self._hold is None:
                self._hold = self.loop.call_later(HELD_SECONDS, self._go_on)
        elif self._idle() and (self._begun or self.timeout_keep_alive_task is None):
            self._await_head()

    def _decline(self, rest: bytes) -> None:
        """Read the request again, without the offer, and what follows its head."""
        if self.parser.get_method() == b"CONNECT":
            self.send_400_response("this is no proxy")
            return
        lines = [b"%s %s HTTP/1.1" % (self.parser.get_method(), self.url)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] not in _OFFER]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            lines.append(b"connection: close")
        self.parser = HttpRequestParser(self)
        self.data_received(b"\r\n".join((*lines, b"", rest)))

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        self._unset_keepalive_if_required()
        self._head_end = self._head_end or self.loop.time() + HEAD_SECONDS
        self.timeout_keep_alive_task = self.loop.call_at(self._head_end, self.timeout_keep_alive_handler)

    def on_message_begin(self) -> None:
        """Count anew."""
        super().on_message_begin()
        self._framing, self._begun = 0, True

    def on_headers_complete(self) -> None:
        """Hold a call back that may be answered at once."""
        self._head_end, self._begun = 0.0, False
        parser = self.parser
        if parser.should_upgrade():
            return
        if (
            self.url in self._paths
            and not (self._had_turn or self.expect_100_continue or self.flow.write_paused)
            and self._idle()
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
        ):
            self._held = bytearray()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self._framing -= len(body)
        if self._held is None:
            super().on_body(body)
            return
        self._held += body
        if len(self._held) > HELD_LIMIT:
            self._go_on()

    def on_message_complete(self) -> None:
        """Answer what can be, at once."""
        if self.parser.should_upgrade():
            return
        if self._held is not None:
            if reply := self._at_once(self.url, self.headers, bytes(self._held)):
                self._let_go()
                self._had_turn = True
                self.transport.write(reply.http())
                self.on_response_complete()
                return
            self._go_on()
        super().on_message_complete()

    def _go_on(self) -> None:
        """Let a call that was held back go the long way."""
        held = self._let_go()
        if held is not None:
            super().on_headers_complete()
            super().on_body(bytes(held))

    def _let_go(self) -> bytearray | None:
        held, self._held = self._held, None
        if self._hold:
            self._hold.cancel()
            self._hold = None
        return held


def most_connections() -> int:
    """Return how many connections there may be at one time."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if files == resource.RLIM_INFINITY else min(MOST, max(1, files - SPARED))
