"""What every bus adapter does. Each adapter's tests subclass `BusContract` and say how to reach the adapter."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from auscult.bus import consume as consume_module
from auscult.bus import dead_letters, events
from auscult.bus.cloudevents import CloudEvent, Headers
from auscult.bus.consume import consume
from auscult.bus.contract import Bus, Delivery, Subscription, Tail
from auscult.bus.factory import open_bus
from auscult.bus.topics import DEAD_LETTERS, OUTCOMES, QUARANTINE, Topic
from auscult.domain.deadline import Deadline
from auscult.domain.identity import pseudonym
from auscult.platform.errors import DeadLetter, Quarantine, Retry
from contracts.bus_process import open_impatient

PROCESS = Path(__file__).with_name("bus_process.py")
SOON = 30.0
"""Seconds within which what must happen has happened, on a loaded machine."""

KEY = "default|1.2.840.99.1"
EVENT = CloudEvent(
    type="org.auscult.test.v1",
    source="/default/test",
    data=b'{"a": "\xc3\xa4"}',
    subject="study",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    deadline=Deadline.parse("2031-05-06T07:08:09.125Z"),
    extensions=(("partof", "größe"),),
)


def event(payload: object = 0) -> CloudEvent:
    """Make an event."""
    return CloudEvent.of("org.auscult.test.v1", "/default/test", payload)


def take(reader: Subscription | Tail, count: int) -> list[Delivery]:
    """Poll until `count` deliveries came."""
    taken: list[Delivery] = []
    end = time.monotonic() + SOON
    while len(taken) < count:
        assert time.monotonic() < end, f"only {len(taken)} of {count} events came"
        delivery = reader.poll(0.5)
        if delivery is not None:
            taken.append(delivery)
    return taken


@contextmanager
def consuming(bus: Bus, topic: Topic, handler: Callable[[Delivery], None], **options: object) -> Iterator[None]:
    """Run `consume` in a thread while the block runs."""
    stop = threading.Event()
    settings = {"group": "workers", "source": "/default/test", "max_tries": 1, "stop": stop, "handler": handler}
    thread = threading.Thread(target=consume, args=(bus, topic), kwargs=settings | options)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(SOON)
        assert not thread.is_alive()


def wait(happened: threading.Event) -> None:
    """Wait for what must happen soon."""
    assert happened.wait(SOON)


class BusContract:
    """The contract; a subclass gives `bus_url`, `put` and `stored`."""

    patience: float
    """Seconds after which an impatient bus replaces a dead consumer."""

    @pytest.fixture
    def bus_url(self) -> str:
        """Name the adapter under test."""
        raise NotImplementedError

    def put(self, bus_url: str, topic: Topic, key: bytes, headers: Headers, data: bytes) -> None:
        """Write a message as something else than Auscult would."""
        raise NotImplementedError

    def stored(self, bus_url: str, topic: Topic) -> list[tuple[bytes, Headers, bytes]]:
        """Return key, headers and data of the messages as anybody else would read them."""
        raise NotImplementedError

    @pytest.fixture
    def bus(self, bus_url: str) -> Iterator[Bus]:
        """Open a bus."""
        bus = open_bus(bus_url)
        yield bus
        bus.close()

    @pytest.fixture
    def topic(self) -> Topic:
        """Name a topic of this test alone."""
        return Topic(f"test.{uuid.uuid4()}")

    @pytest.fixture
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Shorten the pauses between tries."""
        monkeypatch.setattr(consume_module, "FIRST_PAUSE", 0.001)

    def test_an_event_is_read_back_whole_after_the_bus_was_closed(self, bus_url: str, topic: Topic) -> None:
        """Published is durable, with every attribute, the key and the exact data."""
        first = open_bus(bus_url)
        first.publish(topic, EVENT, key=KEY)
        first.close()
        second = open_bus(bus_url)
        (delivery,) = second.read(topic)
        second.close()
        assert delivery.event == EVENT
        assert (delivery.topic, delivery.key) == (topic.name, KEY)

    def test_headers_are_the_binary_kafka_binding(self, bus: Bus, bus_url: str, topic: Topic) -> None:
        """Anybody who reads CloudEvents from Kafka reads ours: header names, content type, untouched data."""
        bus.publish(topic, EVENT, key=KEY)
        ((key, headers, data),) = self.stored(bus_url, topic)
        assert key == KEY.encode()
        assert data == EVENT.data
        assert dict(headers) == {
            "ce_specversion": b"1.0",
            "ce_id": EVENT.id.encode(),
            "ce_source": b"/default/test",
            "ce_type": b"org.auscult.test.v1",
            "ce_time": EVENT.time.encode(),
            "ce_subject": b"study",
            "ce_traceparent": EVENT.traceparent.encode(),
            "ce_deadline": b"2031-05-06T07:08:09.125Z",
            "ce_partof": "größe".encode(),
            "content-type": b"application/json",
        }

    def test_events_of_a_key_keep_their_order(self, bus: Bus, topic: Topic) -> None:
        """Interleaved keys are each delivered in the order of publishing."""
        for number in range(30):
            bus.publish(topic, event(number), key=f"key-{number % 3}")
        with bus.subscribe(topic, group="workers") as subscription:
            taken = take(subscription, 30)
        for key in ("key-0", "key-1", "key-2"):
            numbers = [d.event.payload(int) for d in taken if d.key == key]
            assert numbers == sorted(numbers)
            assert len(numbers) == 10

    def test_each_group_gets_every_event(self, bus: Bus, topic: Topic) -> None:
        """Groups do not take events from each other; a new one starts at the beginning."""
        for number in range(5):
            bus.publish(topic, event(number), key=str(number))
        for group in ("one", "two"):
            with bus.subscribe(topic, group=group) as subscription:
                taken = take(subscription, 5)
                assert sorted(d.event.payload(int) for d in taken) == [0, 1, 2, 3, 4]
                for delivery in taken:
                    subscription.commit(delivery)

    def test_a_subscription_may_have_several_topics(self, bus: Bus, topic: Topic) -> None:
        """All of them are delivered, each under its name."""
        other = Topic(f"{topic.name}.other")
        bus.publish(topic, event(), key=KEY)
        bus.publish(other, event(), key=KEY)
        with bus.subscribe(topic, other, group="workers") as subscription:
            assert {d.topic for d in take(subscription, 2)} == {topic.name, other.name}

    def test_two_consumers_share_a_group_and_no_key_is_in_both_at_once(self, bus: Bus, topic: Topic) -> None:
        """Both get work, every event is handled, per key in order, and never one key by two at a time."""
        lock = threading.Lock()
        both, done = threading.Event(), threading.Event()
        busy: set[str] = set()
        seen: dict[str, list[int]] = {}
        by: set[str] = set()
        overlaps: list[str] = []
        published = 0

        def handler(name: str) -> Callable[[Delivery], None]:
            def handle(delivery: Delivery) -> None:
                with lock:
                    overlaps.extend({delivery.key} & busy)
                    busy.add(delivery.key)
                time.sleep(0.001)  # the other consumer gets its turn while this key is busy
                with lock:
                    busy.remove(delivery.key)
                    by.add(name)
                    numbers = seen.setdefault(delivery.key, [])
                    if (number := delivery.event.payload(int)) not in numbers:
                        numbers.append(number)
                    if len(by) == 2:
                        both.set()
                    if both.is_set() and sum(map(len, seen.values())) == published:
                        done.set()

            return handle

        with consuming(bus, topic, handler("a")), consuming(bus, topic, handler("b")):
            end = time.monotonic() + SOON
            while not both.wait(0.02):
                assert time.monotonic() < end, "one consumer got nothing"
                for key in range(8):
                    bus.publish(topic, event(published), key=str(key))
                    published += 1
            with lock:
                bus.publish(topic, event(published), key="0")
                published += 1
            wait(done)
        assert not overlaps
        assert all(numbers == sorted(numbers) for numbers in seen.values())

    def test_a_commit_survives_reopening(self, bus_url: str, topic: Topic) -> None:
        """What was committed is not delivered to its group again, what follows is."""
        first = open_bus(bus_url)
        for number in range(3):
            first.publish(topic, event(number), key=KEY)
        with first.subscribe(topic, group="workers") as subscription:
            taken = take(subscription, 2)
            subscription.commit(taken[1])
        first.close()
        second = open_bus(bus_url)
        with second.subscribe(topic, group="workers") as subscription:
            (delivery,) = take(subscription, 1)
        second.close()
        assert delivery.event.payload(int) == 2

    def test_what_was_not_committed_is_delivered_again(self, bus: Bus, topic: Topic) -> None:
        """A consumer that leaves in the middle of its work leaves the event to the next."""
        bus.publish(topic, event(7), key=KEY)
        for _ in range(2):
            with bus.subscribe(topic, group="workers") as subscription:
                (delivery,) = take(subscription, 1)
                assert delivery.event.payload(int) == 7

    def test_rewind_delivers_again_from_there(self, bus: Bus, topic: Topic) -> None:
        """After a rewind the same event comes first, then those behind it; it can still be committed."""
        for number in range(3):
            bus.publish(topic, event(number), key=KEY)
        with bus.subscribe(topic, group="workers") as subscription:
            taken = take(subscription, 2)
            subscription.rewind(taken[0])
            again = take(subscription, 3)
            assert [d.offset for d in again[:2]] == [d.offset for d in taken]
            subscription.commit(again[0])
        with bus.subscribe(topic, group="workers") as subscription:
            assert take(subscription, 1)[0].event.payload(int) == 1

    def test_a_tail_sees_the_whole_topic_and_then_what_comes(self, bus: Bus, topic: Topic) -> None:
        """It is caught up exactly when all that was there at its opening was returned."""
        for number in range(4):
            bus.publish(topic, event(number), key=str(number))
        with bus.tail(topic) as tail:
            for _ in range(4):
                assert not tail.caught_up
                take(tail, 1)
            assert tail.caught_up
            bus.publish(topic, event("new"), key=KEY)
            assert take(tail, 1)[0].event.payload(str) == "new"

    def test_a_tail_of_an_empty_topic_is_caught_up(self, bus: Bus, topic: Topic) -> None:
        """A service that waits for its state to be complete does not wait for ever, nor does an operator."""
        with bus.tail(topic) as tail:
            assert tail.caught_up
            assert tail.poll(0) is None
        assert list(bus.read(topic)) == []

    def test_a_tail_begins_where_it_is_told(self, bus: Bus, topic: Topic) -> None:
        """In the partitions that are named; the others, and a log that ends before, are read from the beginning."""
        for number in range(3):
            bus.publish(topic, event(number), key=KEY)
        there = list(bus.read(topic))
        place = there[0].topic, there[0].partition
        with bus.tail(topic, start={place: there[1].offset}) as tail:
            assert not tail.caught_up
            assert [d.offset for d in take(tail, 2)] == [d.offset for d in there[1:]]
            assert tail.caught_up
        with bus.tail(topic, start={("another", 0): 1, place: there[2].offset + 1000}) as tail:
            assert [d.offset for d in take(tail, 3)] == [d.offset for d in there]

    def test_a_compacted_topic_keeps_the_newest_event_of_each_key(self, bus: Bus, topic: Topic) -> None:
        """Whatever is removed, state built from the topic ends with each key's newest event."""
        compacted = Topic(topic.name, compacted=True)
        for number in range(12):
            bus.publish(compacted, event(number), key=str(number % 3))
        state = {d.key: d.event.payload(int) for d in bus.read(compacted)}
        assert state == {"0": 9, "1": 10, "2": 11}

    def test_processes_that_publish_at_once_lose_nothing(self, bus: Bus, bus_url: str, topic: Topic) -> None:
        """Several processes start at one moment on a topic that does not exist yet."""
        workers = [
            subprocess.Popen(
                [sys.executable, PROCESS, "publish", bus_url, topic.name, f"worker-{number}", "25"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=_environment(),
            )
            for number in range(3)
        ]
        for worker in workers:
            assert worker.stdout is not None
            worker.stdout.readline()
        for worker in workers:
            worker.communicate(b"\n", timeout=SOON)
            assert worker.returncode == 0
        taken = list(bus.read(topic))
        for number in range(3):
            assert [d.event.payload(int) for d in taken if d.key == f"worker-{number}"] == list(range(25))

    def test_the_event_of_a_killed_consumer_goes_to_another(self, bus_url: str, topic: Topic) -> None:
        """SIGKILL in the middle of a handler loses nothing."""
        bus = open_impatient(bus_url)
        bus.publish(topic, EVENT, key=KEY)
        victim = subprocess.Popen(
            [sys.executable, PROCESS, "hold", bus_url, topic.name, "workers"],
            stdout=subprocess.PIPE,
            env=_environment(),
        )
        assert victim.stdout is not None
        assert victim.stdout.readline().decode().strip() == EVENT.id
        victim.kill()
        victim.communicate()
        with bus.subscribe(topic, group="workers") as subscription:
            assert take(subscription, 1)[0].event == EVENT
        bus.close()

    def test_a_long_handler_keeps_its_partition(self, bus_url: str, topic: Topic) -> None:
        """A handler that outlasts a dead consumer's time is not disturbed, and its commit counts."""
        bus = open_impatient(bus_url)
        bus.publish(topic, EVENT, key=KEY)
        with bus.subscribe(topic, group="workers") as subscription:
            (delivery,) = take(subscription, 1)
            with bus.subscribe(topic, group="workers") as rival:
                assert rival.poll(1.5 * self.patience) is None
                subscription.commit(delivery)
        bus.publish(topic, event("next"), key=KEY)
        with bus.subscribe(topic, group="workers") as subscription:
            assert take(subscription, 1)[0].event.payload(str) == "next"
        bus.close()

    @pytest.mark.usefixtures("quick")
    def test_an_event_whose_tries_run_out_is_parked_with_its_story(self, bus: Bus, topic: Topic) -> None:
        """The dead letter names reason, source and tries, not the study; the next event is handled."""
        bus.publish(topic, EVENT, key=KEY)
        bus.publish(topic, event("next"), key=KEY)
        handled: list[str] = []
        done = threading.Event()
        told: list[tuple[str, str]] = []

        def handler(delivery: Delivery) -> None:
            handled.append(delivery.event.id)
            if delivery.event.id == EVENT.id:
                raise Retry("fhir-unavailable", "the FHIR server is away")
            done.set()

        with consuming(
            bus, topic, handler, max_tries=3, on_dead_letter=lambda d, p: told.append((d.event.id, p.reason))
        ):
            wait(done)
        assert handled[:3] == [EVENT.id] * 3
        assert told == [(EVENT.id, "retries-exhausted")]
        (letter,) = [d for d in bus.read(DEAD_LETTERS) if ("sourcetopic", topic.name) in d.event.extensions]
        story = dict(letter.event.extensions)
        source = next(iter(bus.read(topic)))
        assert story["reason"] == "retries-exhausted"
        assert "fhir-unavailable" in story["detail"]
        assert (story["sourcepartition"], story["sourceoffset"]) == (str(source.partition), str(source.offset))
        assert (story["tries"], story["service"]) == ("3", "/default/test")
        assert story["sourcekey"] == pseudonym("default", "1.2.840.99.1")
        assert letter.key == KEY
        assert not any(b"1.2.840.99.1" in value for _, value in letter.event.to_headers())
        assert (letter.event.id, letter.event.data) == (EVENT.id, EVENT.data)

    @pytest.mark.usefixtures("quick")
    def test_a_bug_is_parked_by_its_type_and_never_by_its_text(self, bus: Bus, topic: Topic) -> None:
        """An exception's text may quote a patient."""
        parked = threading.Event()
        bus.publish(topic, EVENT, key=KEY)

        def handler(_: Delivery) -> None:
            raise KeyError("DOE^JANE")

        with consuming(bus, topic, handler, max_tries=2, on_dead_letter=lambda *_: parked.set()):
            wait(parked)
        (letter,) = [row for row in dead_letters.listing(bus, DEAD_LETTERS) if row.source_topic == topic.name]
        assert (letter.reason, letter.tries) == ("retries-exhausted", 2)
        assert "KeyError" in letter.detail
        assert "DOE" not in repr(letter)

    def test_doubt_about_the_patient_is_parked_apart_and_told(self, bus: Bus, topic: Topic) -> None:
        """Quarantine has its own topic, after one try, and an outcome that names the study by pseudonym."""
        key = f"tenant-{uuid.uuid4()}|1.2.3"
        parked = threading.Event()
        bus.publish(topic, EVENT, key=key)

        def handler(_: Delivery) -> None:
            raise Quarantine("two-patients", "the study has two patients; correct it in the PACS")

        with consuming(bus, topic, handler, max_tries=5, on_dead_letter=lambda *_: parked.set()):
            wait(parked)
        (letter,) = [row for row in dead_letters.listing(bus, QUARANTINE) if row.source_topic == topic.name]
        assert (letter.reason, letter.tries) == ("two-patients", 1)
        (outcome,) = [d.event.payload(events.Outcome) for d in bus.read(OUTCOMES) if d.key == key]
        tenant = key.split("|", maxsplit=1)[0]
        assert outcome == events.Outcome(
            tenant,
            pseudonym(tenant, "1.2.3"),
            "quarantined",
            "two-patients",
            "the study has two patients; correct it in the PACS",
        )

    def test_a_message_that_is_no_cloudevent_is_parked_and_stops_nobody(
        self, bus: Bus, bus_url: str, topic: Topic
    ) -> None:
        """Its bytes are kept; the event behind it is handled; readers without a group pass it over."""
        bus.publish(topic, event(1), key=KEY)
        self.put(bus_url, topic, KEY.encode(), [("ce_id", b"x"), ("other", b"\xff")], b"\x00not json\xff")
        bus.publish(topic, event(2), key=KEY)
        numbers: list[int] = []
        done = threading.Event()

        def handler(delivery: Delivery) -> None:
            numbers.append(delivery.event.payload(int))
            if len(numbers) == 2:
                done.set()

        with consuming(bus, topic, handler):
            wait(done)
        assert numbers == [1, 2]
        assert [d.event.payload(int) for d in bus.read(topic)] == [1, 2]
        (letter,) = [d for d in bus.read(DEAD_LETTERS) if ("sourcetopic", topic.name) in d.event.extensions]
        assert letter.event.data == b"\x00not json\xff"
        assert dict(letter.event.extensions)["reason"] == "malformed-event"
        assert dead_letters.replay(bus, DEAD_LETTERS, ids={letter.event.id}) == 0

    @pytest.mark.usefixtures("quick")
    def test_an_event_that_cannot_be_parked_is_not_committed(self, bus: Bus, topic: Topic) -> None:
        """While the dead-letter topic fails, the event stays where it is, and is parked later."""
        bus.publish(topic, EVENT, key=KEY)
        parked = threading.Event()
        failures = [Retry("bus-unavailable", "the disk is full")]

        class Failing:
            """The bus, which fails to publish once."""

            subscribe = bus.subscribe

            def publish(self, topic: Topic, event: CloudEvent, *, key: str) -> None:
                if topic is DEAD_LETTERS and failures:
                    raise failures.pop()
                bus.publish(topic, event, key=key)

        def handler(_: Delivery) -> None:
            raise DeadLetter("hopeless", "it cannot be read")

        with consuming(Failing(), topic, handler, on_dead_letter=lambda *_: parked.set()):
            wait(parked)
        assert not failures
        assert [row.reason for row in dead_letters.listing(bus, DEAD_LETTERS) if row.source_topic == topic.name] == [
            "hopeless"
        ]

    def test_a_parked_event_is_replayed_once_as_it_was(self, bus: Bus, topic: Topic) -> None:
        """Same key, id, time and data; no deadline, since a new run begins; again only where asked."""
        one, two = (CloudEvent(EVENT.type, EVENT.source, EVENT.data, deadline=EVENT.deadline) for _ in range(2))
        parked = threading.Event()
        bus.publish(topic, one, key=KEY)
        bus.publish(topic, two, key=KEY)
        told: list[str] = []

        def handler(_: Delivery) -> None:
            raise DeadLetter("hopeless", "it cannot be read")

        def on_dead_letter(delivery: Delivery, _: DeadLetter) -> None:
            told.append(delivery.event.id)
            if len(told) == 2:
                parked.set()

        with consuming(bus, topic, handler, on_dead_letter=on_dead_letter):
            wait(parked)
        assert dead_letters.replay(bus, DEAD_LETTERS, ids={two.id}) == 1
        assert dead_letters.replay(bus, DEAD_LETTERS, ids={two.id}) == 0
        assert dead_letters.replay(bus, DEAD_LETTERS, ids={two.id}, again=True) == 1
        rows = [row for row in dead_letters.listing(bus, DEAD_LETTERS) if row.source_topic == topic.name]
        assert {row.id: row.replayed for row in rows} == {one.id: False, two.id: True}
        sent = list(bus.read(topic))[2:]
        assert [(d.key, d.event.id, d.event.time, d.event.data) for d in sent] == [
            (KEY, two.id, two.time, two.data)
        ] * 2
        assert sent[0].event.deadline is None
        assert [name for name, _ in sent[0].event.extensions] == ["replayedat"]


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": str(PROCESS.parent.parent), "PATH": "/usr/bin:/bin"}
