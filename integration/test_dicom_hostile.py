"""Hostile traffic against a whole listener: each attack is refused by name, and costs nobody else anything.

`AUSCULT_HOSTILE_SEED` chooses what is mutated.
"""

from __future__ import annotations

import os
import random
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from hostile_peer import (
    ASSOCIATE,
    COMMAND,
    CREATE,
    DATA,
    ECHO,
    FIND,
    FIND_STUDY_ROOT,
    LAST,
    PATIENCE,
    STORE,
    Peer,
    association_request,
    command,
    implicit,
    item,
    pdu,
    pdv,
)
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from auscult.bus import events, topics
from auscult.bus.sqlite import SqliteBus
from auscult.domain.identity import sop_digest
from auscult.entrypoints.demo.processes import demo_settings, running
from auscult.imaging import part10
from auscult.imaging.gate import file_meta
from dicom_factory import ct_series
from dicom_sender import take
from hostile_dicom import Hostile, body, changed, element, nested, objects

SEED = int(os.environ.get("AUSCULT_HOSTILE_SEED", "6"))
MEMORY = 512
"""MiB that a process may have."""
AT_ONCE = 20
MIB = 2**20
VERIFICATION, PERFORMED_STEP = "1.2.840.10008.1.1", "1.2.840.10008.3.1.2.3.3"
KIND = 'multipart/related; type="application/dicom"; boundary=b'
STUDY_LEVEL = (0x00080052, b"STUDY ")


@dataclass
class Listener:
    """A running `auscult listen`, as its attackers see it."""

    pid: int
    port: int
    web: str
    acknowledged: dict[str, bytes] = field(default_factory=dict)
    """Path below DICOMweb of each object that was taken, and its data set."""
    peak: int = 0
    """MiB of the largest process so far."""

    def watch(self, ended: threading.Event) -> None:
        """Note what the processes have of memory, every few milliseconds."""
        while not ended.wait(0.05):
            self.peak = max([self.peak, *map(_resident, _family(self.pid))])

    def took(self, data_set: bytes, file: bytes) -> None:
        """Note that an object was acknowledged. `data_set`: what must come back of it."""
        told = part10.read(file)
        study, series, instance = map(told.text, ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
        self.acknowledged[f"studies/{study}/series/{series}/instances/{instance}"] = data_set

    def stow(self, *files: bytes) -> httpx.Response:
        """Store files by STOW-RS."""
        parts = [b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files]
        return self.post(b"".join(parts) + b"--b--")

    def post(self, content: bytes) -> httpx.Response:
        """Send a STOW-RS request as it is."""
        return httpx.post(f"{self.web}/studies", content=content, headers={"Content-Type": KIND}, timeout=PATIENCE)


def _family(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                children += map(int, (task / "children").read_text().split())
    return [pid, *children]


def _resident(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) // 1024
    return 0


@pytest.fixture(scope="module")
def running_listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    """Run the service as a process of its own."""
    home = tmp_path_factory.mktemp("hostile")
    settings = demo_settings(home, home / "models", {})
    ended = threading.Event()
    with running(settings, ("listen",)) as services:
        assert list(services.wait_ready(("listen",))) == ["listen"]
        pid = services.processes["listen"].popen.pid
        listener = Listener(pid, settings.dicom_port, f"http://127.0.0.1:{settings.dicomweb_port}/dicom-web")
        watching = threading.Thread(target=listener.watch, args=(ended,))
        watching.start()
        yield listener
        ended.set()
        watching.join()
        services.processes["listen"].check()


@pytest.fixture
def listener(running_listener: Listener) -> Iterator[Listener]:
    """Give the listener; after the attack it serves, is small, and has all that it acknowledged, byte for byte."""
    yield running_listener
    with Peer(running_listener.port, "127.0.0.9") as friend:
        assert friend.associate(VERIFICATION)
        assert friend.ask(ECHO, VERIFICATION, b"") == 0
        friend.release()
    with httpx.Client(headers={"Accept": "application/dicom"}, timeout=PATIENCE) as client:
        for path, data_set in running_listener.acknowledged.items():
            found = client.get(f"{running_listener.web}/{path}")
            assert found.status_code == 200
            assert found.content[part10.framing(found.content).start :] == data_set
    running_listener.acknowledged.clear()
    assert running_listener.peak <= MEMORY


def at_once(attack: Callable[[int], object], count: int = AT_ONCE) -> list[object]:
    """Run an attack from many connections, and return what became of each."""
    with ThreadPoolExecutor(count) as crowd:
        return list(crowd.map(attack, range(count)))


def test_a_flood_of_connections_locks_nobody_out(listener: Listener) -> None:
    """A hundred idle ones, half a request in each: those above the limit are closed, another machine is served."""
    with ExitStack() as crowd:
        for number in range(100):
            with suppress(OSError):
                crowd.enter_context(Peer(listener.port)).send(pdu(ASSOCIATE, b"", 200 + number)[: number % 7])
        with Peer(listener.port, "127.0.0.9") as friend:
            assert friend.associate(VERIFICATION)
            assert friend.ask(ECHO, VERIFICATION, b"") == 0


def test_pdus_of_256_mib_are_not_read(listener: Listener) -> None:
    """Before the association and in it, whatever their kind; what is streamed behind goes nowhere."""

    def attack(number: int) -> bool:
        with Peer(listener.port) as peer:
            if number % 2:
                assert peer.associate(CTImageStorage)
            announced = pdu((ASSOCIATE, DATA, 3, 7)[number % 4], b"", 256 * MIB)
            if peer.send(announced):
                for _ in range(64):
                    if not peer.send(bytes(MIB)):
                        break
            return peer.hung_up()

    assert set(at_once(attack)) == {True}


CONTEXT = item(0x20, struct.pack(">Bxxx", 1) + item(0x30, b"1.2") + item(0x40, b"1.2"))
REQUESTS = {
    "contexts": CONTEXT * (MIB // len(CONTEXT)),
    "more contexts than may be": CONTEXT * 8000,
    "transfer syntaxes": item(0x20, bytes([1, 0, 0, 0]) + item(0x30, b"1.2") + item(0x40, b"") * 16_000) * 4,
    "user items": item(0x50, item(0x56, b"") * 16_000) * 4,
    "related classes": item(0x50, item(0x57, struct.pack(">H3sH3sH", 3, b"1.2", 3, b"1.2", 50_000) + bytes(50_000)))
    * 4,
    "items longer than their parents": b"\x20\0\0\x08\1\0\0\0\x40\0\xff\xff" * 20_000,
}


@pytest.mark.parametrize("more", REQUESTS.values(), ids=REQUESTS)
def test_association_requests_of_many_parts_take_no_memory(listener: Listener, more: bytes) -> None:
    """They are aborted, or answered, at once."""

    def attack(_: int) -> int:
        with Peer(listener.port) as peer:
            peer.send(pdu(ASSOCIATE, association_request([(CTImageStorage, ImplicitVRLittleEndian)], more=more)))
            return peer.receive()[0]

    assert set(at_once(attack)) <= {0, 2, 3, 7}


def test_pdus_of_many_empty_values_take_no_memory(listener: Listener) -> None:
    """170,000 fragments of nothing in one PDU."""

    def attack(_: int) -> int | None:
        with Peer(listener.port) as peer:
            assert peer.associate(CTImageStorage)
            peer.send(pdu(DATA, pdv(1, COMMAND | LAST, command(STORE, CTImageStorage, "1.2.3"))))
            peer.send(pdu(DATA, pdv(1, 0, b"") * (MIB // 6)))
            return peer.status()

    assert set(at_once(attack)) == {None}


QUERIES = {
    "empty elements": implicit(STUDY_LEVEL, *((0x00100010 + at, b"") for at in range(0xFFE0))),
    "empty items": implicit(STUDY_LEVEL, (0x00400275, struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 100_000)),
    "few empty items": implicit(STUDY_LEVEL, (0x00400275, struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 15_000)),
    "names": implicit(STUDY_LEVEL, (0x00100010, b"a\\" * 500_000)),
    "UIDs": implicit(STUDY_LEVEL, (0x0020000D, b"1\\" * 500_000)),
    "escapes": implicit(STUDY_LEVEL, (0x00080005, b"\\" * 1000), (0x00100010, b"\x1b$B;3" * 20_000)),
    "numbers": implicit(STUDY_LEVEL, (0x00280010, b"\1\0" * 60_000)),
    "wildcards": implicit(STUDY_LEVEL, (0x00100010, b"*a" * 30_000)),
    "deep sequences": implicit((0x00400275, nested(20_000)[:100_000])),
    "nothing": b"",
    "noise": random.Random(SEED).randbytes(100_000),  # noqa: S311 - a test's
    "more than any identifier": bytes(2 * MIB),
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_query_bombs_are_answered(listener: Listener, query: bytes) -> None:
    """With a failure or no match, from twenty associations at once; only what is too long for any loses its own."""

    def attack(_: int) -> int | None:
        with Peer(listener.port) as peer:
            assert peer.associate(FIND_STUDY_ROOT, ImplicitVRLittleEndian)
            return peer.ask(FIND, FIND_STUDY_ROOT, query)

    assert all(status in {0, None, 0xA900} or 0xC000 <= int(str(status)) < 0xD000 for status in at_once(attack))


STEPS = {
    "items": implicit((0x00400270, implicit((0xFFFEE000, implicit((0x0020000D, b"1.2.3\0")))) * 20_000)),
    "empty items": implicit((0x00400270, implicit((0xFFFEE000, b"")) * 100_000)),
    "elements": implicit(*((0x00100010 + at, b"") for at in range(0xFFE0))),
    "deep sequences": nested(20_000),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_procedure_step_bombs_are_answered(listener: Listener, step: bytes) -> None:
    """With a failure; large ones are read one after the other."""

    def attack(number: int) -> int | None:
        with Peer(listener.port) as peer:
            assert peer.associate(PERFORMED_STEP, ImplicitVRLittleEndian)
            return peer.ask(CREATE, PERFORMED_STEP, step, f"1.2.{number}")

    assert 0 not in at_once(attack, 8)


def test_large_objects_from_all_sides_take_no_memory(listener: Listener) -> None:
    """Of 4 MB, by 20 associations and 40 requests at once."""

    def attack(number: int) -> bool:
        dataset = changed(Rows=1400, Columns=1400, PixelData=bytes(2 * 1400 * 1400))
        data = body(dataset)
        file = file_meta(dataset.SOPClassUID, dataset.SOPInstanceUID) + data
        if number % 3:
            taken = listener.stow(file).status_code == 200
        else:
            with Peer(listener.port) as peer:
                assert peer.associate(CTImageStorage)
                taken = peer.ask(STORE, CTImageStorage, data, dataset.SOPInstanceUID) == 0
                peer.release()
        if taken:
            listener.took(data, file)
        return taken

    assert set(at_once(attack, 60)) == {True}


def sent(listener: Listener, hostile: Hostile) -> int | None:
    """C-STORE an object; note it where it was taken."""
    with Peer(listener.port) as peer:
        assert peer.associate(hostile.sop_class, hostile.syntax)
        status = peer.ask(STORE, hostile.sop_class, hostile.data_set, hostile.sop_instance)
        if status == 0:
            stored = file_meta(hostile.sop_class, hostile.sop_instance) + hostile.inflated
            listener.took(hostile.inflated or hostile.data_set, stored if hostile.inflated else hostile.file)
        peer.release()
        return status


def test_hostile_objects_are_taken_or_refused(listener: Listener) -> None:
    """By C-STORE and by STOW-RS alike."""
    for hostile in objects():
        status = sent(listener, hostile)
        assert (status == 0) is (not hostile.reasons), hostile.name
        answer = listener.stow(hostile.file)
        assert answer.status_code == (409 if hostile.reasons else 200), hostile.name


def test_mutated_objects_are_taken_or_refused(listener: Listener) -> None:
    """Bytes changed, left out and doubled, at the places that the seed names."""
    chance = random.Random(SEED)  # noqa: S311 - a test's
    for _ in range(150):
        dataset = changed()
        data, uid = bytearray(body(dataset)), str(dataset.SOPInstanceUID)
        for _ in range(chance.randint(1, 4)):
            at, size = chance.randrange(len(data)), chance.randint(1, 12)
            data[at : at + size] = chance.choice(
                (chance.randbytes(size), b"", data[at : at + size] * 2, b"\xff" * size)
            )
        with Peer(listener.port) as peer:
            assert peer.associate(CTImageStorage)
            status = peer.ask(STORE, CTImageStorage, bytes(data), uid)
            peer.release()
        assert status is not None
        if status == 0:
            listener.took(bytes(data), file_meta(CTImageStorage, uid) + data)


PART = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
REQUEST_BODIES = {
    "parts of no object": PART.replace(b"--b", b"\r\n--b") + (b"x\r\n" + PART) * 100_000 + b"--b--",
    "a part's endless head": b"--b\r\nX: " + b"a" * 30 * MIB,
    "an endless preamble": b"\r\n" * 15 * MIB,
    "almost delimiters": PART + b"\r\n--" * 5_000_000,
    "a part without end": PART + bytes(40 * MIB),
    "no part": b"--b--",
    "nothing": b"",
}


@pytest.mark.parametrize("content", REQUEST_BODIES.values(), ids=REQUEST_BODIES)
def test_multipart_bombs_are_refused(listener: Listener, content: bytes) -> None:
    """With a client error, or a hang-up once nothing more is read."""

    def attack(_: int) -> int:
        with suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
            return listener.post(content).status_code
        return 400

    assert set(at_once(attack, 4)) <= {400, 409, 413, 415}


def test_an_abort_in_the_middle_of_an_object_leaves_nothing(listener: Listener) -> None:
    """Neither in memory nor in the store."""

    def attack(_: int) -> bool:
        with Peer(listener.port) as peer:
            assert peer.associate(CTImageStorage)
            peer.send(pdu(DATA, pdv(1, COMMAND | LAST, command(STORE, CTImageStorage, "1.2.3.4"))))
            for _ in range(10):
                peer.send(pdu(DATA, pdv(1, 0, bytes(MIB - 6))))
            peer.send(pdu(7, bytes(4)))
            return peer.hung_up()

    assert set(at_once(attack)) == {True}
    assert httpx.get(f"{listener.web}/studies", params={"StudyInstanceUID": "1.2.3"}, timeout=PATIENCE).json() == []


def test_a_program_in_an_element_is_data(listener: Listener) -> None:
    """It comes back as it was sent, and nobody runs it."""
    data = element(0x00080005, b"CS", b"ISO_IR 192") + element(0x00091001, b"OB", b"\x7fELF" + bytes(60))
    dataset = changed()
    whole = body(dataset)
    at = whole.index(struct.pack("<HH", 0x0010, 0x0010))
    hostile = Hostile("program", whole[:at] + data[18:] + whole[at:], (), ExplicitVRLittleEndian)
    assert sent(listener, hostile) == 0


def test_what_was_acknowledged_before_a_kill_becomes_a_study(tmp_path: Path) -> None:
    """The listener dies in an association; when it is back the sender sends the study again, and the event comes."""
    settings = demo_settings(tmp_path, tmp_path / "models", {})
    series = ct_series((6, 16, 16))
    with running(settings, ("listen",)) as services:
        assert list(services.wait_ready(("listen",))) == ["listen"]
        with Peer(settings.dicom_port) as peer:
            assert peer.associate(CTImageStorage)
            for dataset in series[:3]:
                assert peer.ask(STORE, CTImageStorage, body(dataset), dataset.SOPInstanceUID) == 0
            services.processes["listen"].popen.kill()
            services.processes["listen"].popen.wait()
        services.start("listen")
        assert list(services.wait_ready(("listen",))) == ["listen"]
        with Peer(settings.dicom_port) as peer:
            assert peer.associate(CTImageStorage)
            for dataset in series:
                assert peer.ask(STORE, CTImageStorage, body(dataset), dataset.SOPInstanceUID) == 0
            peer.release()
        with closing(SqliteBus(tmp_path / "bus.db")) as bus:
            (told,) = take(bus, topics.STUDIES, 1)
        complete = told.event.payload(events.StudyComplete)
        assert complete.study_uid == series[0].StudyInstanceUID
        assert complete.digest == sop_digest(str(dataset.SOPInstanceUID) for dataset in series)
