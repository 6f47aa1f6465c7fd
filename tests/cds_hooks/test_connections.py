"""HTTP as clients send it, also those that mean harm: each call is answered once, and nothing is kept for ever."""

from __future__ import annotations

import json
import queue
import socket
import threading
import uuid
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import TYPE_CHECKING, cast

import pytest

from auscult.bus.contract import Bus
from auscult.cds_hooks import connections, endpoints
from auscult.cds_hooks.server import run
from auscult.platform.settings import Settings

if TYPE_CHECKING:
    from conftest import Topic

PATH = "/cds-services/auscult-patient-view"
CALL = json.dumps(
    {
        "hook": "patient-view",
        "hookInstance": str(uuid.UUID(int=1)),
        "context": {"userId": "Practitioner/abc", "patientId": "42"},
    }
).encode()
SOON = 20.0
LONG_WAY = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""A header with which a call goes through ASGI."""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, topic_of_one: Topic) -> Iterator[int]:
    """Run the service, which has one card of patient 42; return its port."""
    stop, ports = threading.Event(), queue.Queue[int]()
    settings = Settings(hooks_port=0, home=tmp_path_factory.mktemp("home"))
    server = threading.Thread(target=run, args=(settings, cast("Bus", topic_of_one), stop, ports.put))
    server.start()
    try:
        found = ports.get(timeout=SOON)
        topic_of_one.wait()
        yield found
    finally:
        stop.set()
        server.join(SOON)
    assert not server.is_alive()


@pytest.fixture
def line(port: int) -> Iterator[socket.socket]:
    """Return a connection."""
    with socket.create_connection(("127.0.0.1", port), SOON) as opened:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield opened


def head(*more: str, length: int | None = len(CALL), version: str = "1.1", path: str = PATH) -> bytes:
    """Return the head of a call."""
    lines = [f"POST {path} HTTP/{version}", "host: hooks", "content-type: application/json", *more]
    lines += [f"content-length: {length}"] if length is not None else []
    return "\r\n".join((*lines, "", "")).encode()


def answer(line: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one answer: status, headers and body."""
    response = HTTPResponse(_Unbuffered(line), method="POST")  # type: ignore[arg-type]  # all that it needs
    response.begin()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


class _Unbuffered:
    """Gives a file of a socket that takes no byte of the answer after this one."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line

    def makefile(self, _mode: str) -> object:
        """Return the file."""
        return self._line.makefile("rb", buffering=0)


def summaries(body: bytes) -> list[str]:
    """Return the summaries of an answer's cards."""
    return [card["summary"] for card in json.loads(body)["cards"]]


CHUNKED = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (CALL[:7], CALL[7:])) + b"0\r\n\r\n"
WAYS: dict[str, tuple[bytes, ...]] = {
    "in one piece": (head() + CALL,),
    "the body after the head": (head(), CALL),
    "byte by byte": tuple(bytes([each]) for each in head() + CALL),
    "in chunks": (head("transfer-encoding: chunked", length=None), CHUNKED),
    "asked to go on": (head("expect: 100-continue"), CALL),
    "with a trace": (head(LONG_WAY) + CALL,),
    "to be closed": (head("connection: close") + CALL,),
    "by HTTP/1.0": (head(version="1.0") + CALL,),
    "with an offer of HTTP/2": (
        head("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAE") + CALL,
    ),
    "with an offer, the body after the head": (head("connection: upgrade", "upgrade: websocket"), CALL),
    "with an offer, to be closed": (head("connection: close, upgrade", "upgrade: h2c") + CALL,),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_call_is_answered_however_it_is_sent(line: socket.socket, way: str) -> None:
    """The card comes, once."""
    for part in WAYS[way]:
        line.sendall(part)
    status, headers, body = answer(line)
    assert (status, summaries(body)) == (200, ["Lung nodule 8.4 mm"])
    assert headers["cache-control"] == "no-store"
    assert headers["content-type"] == "application/json"
    if "closed" in way or "1.0" in way:
        assert line.recv(1) == b""
    else:
        line.sendall(head() + CALL)
        assert answer(line)[0] == 200


def test_calls_that_are_sent_at_once_are_answered_in_order(line: socket.socket) -> None:
    """Of short ones, long ones and others, each has its own answer."""
    other = CALL.replace(b'"42"', b'"43"')
    line.sendall((head() + CALL + head() + other + head(LONG_WAY) + CALL + head() + other) * 20)
    found = [summaries(answer(line)[2]) for _ in range(80)]
    assert found == [["Lung nodule 8.4 mm"], []] * 40


@pytest.mark.parametrize(
    "body",
    [CALL, b"", b"{", b"[]", CALL.replace(b"patient-view", b"order-sign"), CALL.replace(b"42", b"a b"), b"\xff" * 99],
)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/json; charset=latin-1"])
def test_both_ways_give_one_answer(line: socket.socket, body: bytes, kind: str) -> None:
    """Status, headers and body are the same with a trace, which goes through ASGI, and without."""
    given = head(length=len(body)).replace(b"application/json", kind.encode())
    line.sendall(given + body)
    short = answer(line)
    line.sendall(given.replace(b"host: hooks", f"host: hooks\r\n{LONG_WAY}".encode()) + body)
    assert answer(line) == short


@pytest.mark.parametrize(
    "sent",
    [
        head("x: " + "a" * 2**20),
        head(*(f"x{number}: a" for number in range(200_000))),
        b"POST /" + b"a" * 2**20,
        head("transfer-encoding: chunked", length=None) + b"0\r\n" + b"x: a\r\n" * 200_000,
        b"\r\n" * 2**19,
    ],
    ids=["one header", "headers", "path", "trailers", "empty lines"],
)
def test_a_head_without_end_is_refused(port: int, sent: bytes) -> None:
    """The connection is closed, whatever of the request is endless."""
    with socket.create_connection(("127.0.0.1", port), SOON) as line:
        try:
            for at in range(0, len(sent), 1 << 14):
                line.sendall(sent[at : at + (1 << 14)])
        except OSError:
            return
        found = b"".join(iter(lambda: received(line), b""))
        assert b" 4" in found.partition(b"\r\n")[0]


def received(line: socket.socket) -> bytes:
    """Return what comes, b"" at the end, also where what was sent was not all read."""
    try:
        return line.recv(1 << 16)
    except ConnectionError:
        return b""


@pytest.mark.parametrize("sent", [b"", b"POST /cds", head()[:-2], head() + CALL + b"POST"])
def test_a_connection_that_says_no_more_is_closed(port: int, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """Whether nothing was sent, or a part of a head, or one call and a part."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.05)
    with socket.create_connection(("127.0.0.1", port), SOON) as line:
        line.sendall(sent)
        found = b"".join(iter(lambda: received(line), b""))
    assert found.startswith(b"HTTP/1.1 200") if CALL in sent else found == b""


def test_a_body_that_does_not_come_is_not_awaited(
    line: socket.socket, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    """The call gets 408, and others are answered meanwhile."""
    monkeypatch.setattr(connections, "HELD_SECONDS", 0.01)
    monkeypatch.setattr(endpoints, "BODY_SECONDS", 0.5)
    line.sendall(head() + CALL[:-1])
    with socket.create_connection(("127.0.0.1", port), SOON) as other:
        other.sendall(head() + CALL)
        assert answer(other)[0] == 200
    assert answer(line)[0] == 408


def test_a_body_that_is_long_goes_the_long_way(line: socket.socket) -> None:
    """It is read up to its own limit, and the connection goes on."""
    given = CALL[:-1] + b" " * (3 * connections.HELD_LIMIT) + b"}"
    line.sendall(head(length=len(given)) + given + head() + CALL)
    assert [answer(line)[0] for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("sent", [b"\x16\x03\x01 hello\r\n\r\n", b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n"])
def test_what_is_not_for_this_server_costs_its_own_connection(line: socket.socket, port: int, sent: bytes) -> None:
    """400, closed; the next caller is answered."""
    line.sendall(sent)
    assert b"".join(iter(lambda: received(line), b"")).startswith(b"HTTP/1.1 400")
    with socket.create_connection(("127.0.0.1", port), SOON) as other:
        other.sendall(head() + CALL)
        assert answer(other)[0] == 200


def test_there_are_so_many_connections_and_no_more(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are there go on; one that comes is closed."""
    with socket.create_connection(("127.0.0.1", port), SOON) as line:
        line.sendall(head() + CALL)
        assert answer(line)[0] == 200
        monkeypatch.setattr(connections, "most_connections", lambda: 1)
        with socket.create_connection(("127.0.0.1", port), SOON) as other:
            assert received(other) == b""
        line.sendall(head() + CALL)
        assert answer(line)[0] == 200


def test_connections_leave_files_to_others() -> None:
    """There are files left for the rest of the process."""
    assert 1 <= connections.most_connections() <= connections.MOST
