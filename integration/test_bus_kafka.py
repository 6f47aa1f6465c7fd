"""The Kafka bus keeps the contract, on a real Apache Kafka of its own."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from stack.servers import Kafka

from auscult.bus import kafka as adapter
from auscult.bus.cloudevents import CloudEvent, Headers
from auscult.bus.contract import Delivery
from auscult.bus.kafka import KafkaBus
from auscult.bus.topics import DEAD_LETTERS, QUARANTINE, Topic
from auscult.platform.errors import DeadLetter, Retry
from contracts.bus_contract import EVENT, KEY, SOON, BusContract, event, take


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a broker for this module alone, as the contract uses the product's own topics."""
    server = Kafka(tmp_path_factory.mktemp("kafka"))
    server.start()
    yield server.address
    server.stop()


class TestKafkaBus(BusContract):
    """The contract, on Kafka."""

    patience = 6.0

    @pytest.fixture
    def bus_url(self, address: str) -> str:
        """Name the broker."""
        return f"kafka://{address}"

    def put(self, bus_url: str, topic: Topic, key: bytes, headers: Headers, data: bytes) -> None:
        """Send a message."""
        with closing(KafkaProducer(bootstrap_servers=bus_url.removeprefix("kafka://"))) as producer:
            producer.send(topic.name, value=data, key=key, headers=headers).get(timeout=SOON)

    def stored(self, bus_url: str, topic: Topic) -> list[tuple[bytes, Headers, bytes]]:
        """Read what is there."""
        with closing(
            KafkaConsumer(
                topic.name,
                bootstrap_servers=bus_url.removeprefix("kafka://"),
                auto_offset_reset="earliest",
                consumer_timeout_ms=1000,
            )
        ) as consumer:
            return [(record.key, list(record.headers), record.value) for record in consumer]


@pytest.fixture
def bus(address: str) -> Iterator[KafkaBus]:
    """Open the bus under test, with one partition a topic."""
    with closing(KafkaBus(address, partitions=1)) as bus:
        yield bus


@pytest.fixture
def topic() -> Topic:
    """Name a topic of this test alone."""
    return Topic(f"test.{CloudEvent('', '', b'').id}")


def settings(topic: Topic, address: str) -> dict[str, str]:
    """Return a topic's settings as the broker has them."""
    with closing(KafkaAdminClient(bootstrap_servers=address)) as admin:
        described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name)])
    return {name: setting["value"] for name, setting in described["topic"][topic.name].items()}


def test_topics_are_created_with_what_they_need(bus: KafkaBus, topic: Topic, address: str) -> None:
    """Findings are compacted; dead letters are kept for ever and take any event that another topic took."""
    compacted = Topic(topic.name, compacted=True)
    for each in (compacted, DEAD_LETTERS, QUARANTINE):
        bus.publish(each, EVENT, key=KEY)
    assert settings(compacted, address)["cleanup.policy"] == "compact"
    for parked in (settings(each, address) for each in (DEAD_LETTERS, QUARANTINE)):
        assert parked["retention.ms"] == "-1"
        assert int(parked["max.message.bytes"]) > 2 * 2**20 - 1


def test_a_member_that_hangs_is_replaced_and_its_late_commit_changes_nothing(
    bus: KafkaBus, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After LONGEST_HANDLING without a poll the partition goes to another, whose place cannot be overwritten."""
    for number in range(2):
        bus.publish(topic, event(number), key=KEY)
    monkeypatch.setattr(adapter, "LONGEST_HANDLING", 1.0)
    with bus.subscribe(topic, group="workers") as sleeper:
        taken = take(sleeper, 2)
        with bus.subscribe(topic, group="workers") as successor:
            take(successor, 1)
            sleeper.commit(taken[1])
    with bus.subscribe(topic, group="workers") as subscription:
        assert take(subscription, 1)[0].event.payload(int) == 0


def test_an_event_from_before_a_rebalance_cannot_be_committed(topic: Topic, address: str) -> None:
    """Kafka takes a commit from any member of the generation; the adapter knows what is not ours any more."""
    with closing(KafkaBus(address, partitions=2)) as bus, bus.subscribe(topic, group="workers") as first:
        for number in range(8):
            bus.publish(topic, event(number), key=str(number))
        taken = take(first, 8)
        assert {d.partition for d in taken} == {0, 1}
        with bus.subscribe(topic, group="workers") as second:
            theirs: list[Delivery] = []

            def join() -> None:
                theirs.extend(take(second, 1))

            joining = threading.Thread(target=join)
            joining.start()
            end = time.monotonic() + SOON
            while joining.is_alive():
                assert time.monotonic() < end
                first.poll(0.1)
            for delivery in taken:
                first.commit(delivery)
            moved = theirs[0].partition
    with bus.subscribe(topic, group="workers") as third:
        while (delivery := take(third, 1)[0]).partition != moved:
            pass
        assert delivery.offset == 0


def test_an_event_that_is_too_large_is_said_to_be(bus: KafkaBus, topic: Topic) -> None:
    """It is no outage: trying again would never help."""
    for size in (1_200_000, 3_000_000):
        with pytest.raises(DeadLetter, match="event-too-large"):
            bus.publish(topic, event("x" * size), key=KEY)
    bus.publish(topic, event("small"), key=KEY)
    assert [d.event.payload(str) for d in bus.read(topic)] == ["small"]


def test_a_broker_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Publishing, subscribing and reading raise Retry; closing works, and no thread is left behind."""
    caplog.set_level(logging.CRITICAL, "kafka")  # its records would keep exceptions, and these the sockets
    monkeypatch.setattr(adapter, "_REQUEST_SECONDS", 0.5)
    bus = KafkaBus("127.0.0.1:9")
    with pytest.raises(Retry, match="bus-unavailable"):
        bus.publish(Topic("test"), EVENT, key=KEY)
    with pytest.raises(Retry, match="bus-unavailable"), bus.subscribe(Topic("test"), group="workers"):
        pass
    with pytest.raises(Retry, match="bus-unavailable"):
        list(bus.read(Topic("test")))
    bus.close()
    gc.collect()  # while the warning about them is still ignored
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("kafka-io")]
