"""HL7 v2 over MLLP: what is taken, how it is answered, and what a sender may do wrong."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auscult.bus import events
from auscult.bus.sqlite import SqliteBus
from auscult.bus.topics import RECORD
from auscult.listen import messages
from auscult.listen.hl7v2 import Hl7Listener
from auscult.listen.messages import MessageStore, NotTaken, PatientName
from auscult.listen.mllp import Framer, TooLong, framed
from auscult.platform.errors import RefuseToStart, Retry
from auscult.platform.settings import Settings
from certificates import Authority


def adt(event: str = "A08", *, fields: str = "", charset: str = "", name: str = "DOE^JANE", kind: str = "ADT") -> str:
    """Return a message. `fields`: MSH-13 to MSH-17."""
    merge = "MRG|OLD-9^^^HOSPITAL\r" if event == "A40" else ""
    return (
        f"MSH|^~\\&|ADT1|WARD|AUSCULT|SITE|20261125||{kind}^{event}|MSG1|P|2.5.1|{fields or '||||'}|{charset}\r"
        f"EVN|{event}|20261125\rPID|1||MRN-1^^^HOSPITAL&1.2.3&ISO^MR~X-2^^^OTHER||{name}||19570309|F\r{merge}"
    )


@pytest.fixture
def hl7(settings: Settings) -> Settings:
    """Return the settings of a listener on a free port."""
    return settings.model_copy(update={"hl7_port": 0, "hl7_max_bytes": 20_000})


@pytest.fixture
def kept(hl7: Settings) -> MessageStore:
    """Return an empty message store."""
    return MessageStore(hl7.messages)


@pytest.fixture
def line(hl7: Settings, bus: SqliteBus, kept: MessageStore) -> Iterator[socket.socket]:
    """Return a connection to a running listener."""
    listener = Hl7Listener(hl7, bus, kept)
    port = listener.start()
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        yield connection
    listener.stop()


def answer(line: socket.socket) -> str:
    """Read one block."""
    data = b""
    while not data.endswith(b"\x1c\r"):
        part = line.recv(4096)
        assert part, "the listener hung up"
        data += part
    assert data[:1] == b"\x0b"
    return data[1:-2].decode()


def ask(line: socket.socket, message: str | bytes) -> str:
    """Send one message and read its answer."""
    line.sendall(framed(message if isinstance(message, bytes) else message.encode()))
    return answer(line)


def told(bus: SqliteBus) -> list[events.MessageReceived]:
    """Return the events of messages."""
    return [delivery.event.payload(events.MessageReceived) for delivery in bus.read(RECORD)]


@pytest.mark.parametrize(
    ("kind", "event"),
    [("ADT", "A01"), ("ADT", "A03"), ("ADT", "A04"), ("ADT", "A08"), ("ADT", "A40"), ("ORU", "R01")],
)
def test_a_message_is_kept_and_told_before_it_is_acknowledged(
    line: socket.socket, bus: SqliteBus, kept: MessageStore, kind: str, event: str
) -> None:
    """AA names the message; the event refers to it, and nothing of the patient is on the bus."""
    sent = adt(event, kind=kind)
    lines = ask(line, sent).split("\r")
    assert lines[0].startswith("MSH|^~\\&|AUSCULT||ADT1|WARD|")
    assert f"|ACK^{event}|" in lines[0]
    assert lines[1] == "MSA|AA|MSG1"
    (delivery,) = bus.read(RECORD)
    one = delivery.event.payload(events.MessageReceived)
    assert one.kind == f"{kind}^{event}"
    assert kept.get(one.message) == sent.encode()
    on_the_bus = delivery.event.data + delivery.key.encode()
    assert not any(secret in on_the_bus for secret in (b"MRN-1", b"DOE", b"1957"))


def test_several_messages_come_over_one_connection_in_pieces(line: socket.socket, bus: SqliteBus) -> None:
    """However TCP cuts them; the same message again has the same event."""
    whole = framed(adt("A01").encode()) + b"\r\n" + framed(adt("A08").encode()) + framed(adt("A08").encode())
    for start in range(0, len(whole), 97):
        line.sendall(whole[start : start + 97])
    assert [answer(line).split("\r")[1] for _ in range(3)] == ["MSA|AA|MSG1"] * 3
    ids = [delivery.event.id for delivery in bus.read(RECORD)]
    assert len(ids) == 3
    assert len(set(ids)) == 2


@pytest.mark.parametrize(
    ("message", "code", "condition"),
    [
        (adt("A31"), "AR", "201"),
        (adt("O01", kind="ORM"), "AR", "200"),
        (adt().replace("|P|", "|T|"), "AR", "202"),
        (adt().replace("|MSG1|", "||"), "AR", "101"),
        (adt().replace("PID|", "PIX|"), "AR", "101"),
        (adt("A40").replace("MRG|OLD-9^^^HOSPITAL", "MRG|"), "AR", "101"),
        (adt(charset="UNICODE UTF-16"), "AR", "102"),
        (adt(charset="ASCII", name="MÜLLER"), "AR", "102"),
        ("no message at all", "AR", "102"),
        ("MSH|^~\\&", "AR", "102"),
        ("", "AR", "102"),
    ],
)
def test_what_is_not_taken_is_rejected_by_name(
    line: socket.socket, bus: SqliteBus, message: str, code: str, condition: str
) -> None:
    """AR with a condition of table 0357; the connection goes on."""
    lines = ask(line, message).split("\r")
    assert lines[1].startswith(f"MSA|{code}|")
    assert f"|{condition}^^HL70357|E|" in lines[2]
    assert told(bus) == []
    assert "MSA|AA|" in ask(line, adt())


def test_what_cannot_be_kept_may_be_sent_again(
    line: socket.socket, bus: SqliteBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AE while the bus is away."""

    def away(*_: object, **__: object) -> None:
        raise Retry("bus-unavailable", "the disk is full")

    monkeypatch.setattr(bus, "publish", away)
    assert "MSA|AE|MSG1" in ask(line, adt())
    monkeypatch.undo()
    assert "MSA|AA|MSG1" in ask(line, adt())


@pytest.mark.parametrize(
    ("fields", "good", "bad"),
    [
        ("||AL|NE", ["CA"], ["CR"]),
        ("||AL|AL", ["CA", "AA"], ["CR", "AR"]),
        ("||ER|SU", ["AA"], ["CR"]),
        ("||NE|NE", [], []),
        ("||SU|", ["CA"], []),
        ("||||", ["AA"], ["AR"]),
    ],
)
def test_the_enhanced_mode_answers_as_it_is_asked_to(fields: str, good: list[str], bad: list[str]) -> None:
    """MSH-15 and MSH-16 say which acknowledgements are wanted, and when."""
    header = messages.header_of(adt(fields=fields).encode())
    problem = NotTaken("x", "no", condition="102")

    def codes(found: list[bytes]) -> list[str]:
        return [one.decode().split("\r")[1].split("|")[1] for one in found]

    assert (codes(messages.answers(header, None)), codes(messages.answers(header, problem))) == (good, bad)


@pytest.mark.parametrize(
    ("charset", "codec"),
    [
        ("8859/1", "latin-1"),
        ("UNICODE UTF-8", "utf-8"),
        ("", "utf-8"),
        ("8859/2", "iso8859-2"),
        ("GB 18030-2000", "gb18030"),
    ],
)
def test_names_in_any_character_set_do_not_stop_a_message(charset: str, codec: str) -> None:
    """MSH-18 says how it is read."""
    read = messages.read(adt(charset=charset, name="MÜLLER^JÜRGEN").encode(codec))
    assert read.identifiers == (
        PatientName("MRN-1", ("HOSPITAL", "1.2.3")),
        PatientName("X-2", ("OTHER",)),
    )
    assert (str(read.birth_date), read.sex) == ("1957-03-09", "F")


def test_other_separators_are_read_too() -> None:
    """MSH-1 and MSH-2 are the sender's choice."""
    odd = adt("A40").translate(str.maketrans("|^~&", "#@!$"))
    read = messages.read(odd.encode())
    assert read.identifiers[0] == PatientName("MRN-1", ("HOSPITAL", "1.2.3"))
    assert read.prior == (PatientName("OLD-9", ("HOSPITAL",)),)
    assert read.header.kind == "ADT^A40"


def test_a_message_that_is_too_long_is_rejected_and_the_connection_closed(
    line: socket.socket, bus: SqliteBus
) -> None:
    """Its end is not waited for."""
    line.sendall(b"\x0b" + adt().encode() + b"NTE|" + b"x" * 30_000)
    assert "MSA|AR|MSG1" in answer(line)
    assert told(bus) == []


def test_a_message_that_was_begun_again_is_read_from_its_last_beginning(line: socket.socket, bus: SqliteBus) -> None:
    """A sender that broke off starts anew with VT."""
    line.sendall(b"\x0b" + adt().encode()[:50])
    assert "MSA|AA|" in ask(line, adt("A01"))
    assert [one.kind for one in told(bus)] == ["ADT^A01"]


def test_who_speaks_no_mllp_is_hung_up_on(line: socket.socket) -> None:
    """A web browser, say."""
    line.sendall(b"GET / HTTP/1.1\r\n" * 400)
    with pytest.raises(ConnectionError):  # noqa: PT012 - either the end or a reset
        assert line.recv(100) == b""
        raise ConnectionResetError


def test_half_a_message_at_the_end_is_no_message(line: socket.socket, bus: SqliteBus) -> None:
    """It was not acknowledged, so its sender has it still."""
    line.sendall(framed(adt().encode())[:-5])
    line.shutdown(socket.SHUT_WR)
    assert line.recv(100) == b""
    assert told(bus) == []


def test_only_peers_that_are_listed_may_send(hl7: Settings, bus: SqliteBus, kept: MessageStore) -> None:
    """Others are hung up on."""
    listener = Hl7Listener(hl7.model_copy(update={"hl7_peers": ("10.1.0.0/16",)}), bus, kept)
    port = listener.start()
    with socket.create_connection(("127.0.0.1", port), 10) as line:
        assert line.recv(100) == b""
    listener.stop()


@pytest.mark.parametrize("changes", [{"hl7_host": "0.0.0.0"}, {"hl7_peers": ("ward",)}, {"hl7_tls_cert": Path("x")}])
def test_a_listener_that_anybody_could_use_does_not_start(
    hl7: Settings, bus: SqliteBus, kept: MessageStore, changes: dict[str, object]
) -> None:
    """A message can merge patients."""
    with pytest.raises(RefuseToStart):
        Hl7Listener(hl7.model_copy(update=changes), bus, kept)


def test_over_tls_senders_show_a_certificate(
    hl7: Settings, bus: SqliteBus, kept: MessageStore, tmp_path: Path
) -> None:
    """One of the authority that the settings name."""
    authority = Authority(tmp_path / "tls")
    certificate, key = authority.issue("listener")
    files = {"hl7_tls_cert": certificate, "hl7_tls_key": key, "hl7_tls_ca": authority.certificate}
    listener = Hl7Listener(hl7.model_copy(update=files), bus, kept)
    port = listener.start()
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(*authority.issue("ward"))
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
    ):
        assert "MSA|AA|MSG1" in ask(line, adt())
    listener.stop()


@given(st.binary(max_size=400))
def test_whatever_comes_is_read_or_not_taken(data: bytes) -> None:
    """No other error leaves the reader, and each answer is one message."""
    for frame in (data, b"MSH|^~\\&|" + data, adt().encode() + data):
        try:
            header = messages.header_of(frame)
            messages.read(frame)
            problem = None
        except NotTaken as found:
            header, problem = messages.Header(control=frame.decode("latin-1")), found
        for one in messages.answers(header, problem):
            assert one.count(b"MSH|") == 1
            assert not {0x0B, 0x1C} & set(one)


@given(
    st.lists(st.binary(max_size=30).map(lambda b: bytes(x for x in b if x not in (0x0B, 0x1C))), max_size=5),
    st.data(),
)
def test_blocks_come_out_as_they_went_in(blocks: list[bytes], data: st.DataObject) -> None:
    """Whatever the pieces."""
    stream = b"".join(map(framed, blocks))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    framer, found = Framer(1000), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += framer.feed(stream[start:end])
    assert found == blocks
    assert not framer.partial
    assert framer.stray == 0


def test_a_block_without_end_is_too_long_in_time() -> None:
    """No memory is filled."""
    framer = Framer(100)
    for _ in range(10):
        framer.feed(b"\x0b"[: not framer.partial] + b"x" * 10)
    with pytest.raises(TooLong):
        framer.feed(b"x")
