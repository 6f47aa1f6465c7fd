"""The bus on Apache Kafka, through kafka-python.

Published is acknowledged by all in-sync replicas (acks=all, idempotent producer). Offsets are committed one by
one after the work; nothing is committed by itself. Topics that are missing are created with what they need;
a site that wants other numbers creates them itself before.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.errors import (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    KafkaConfigurationError,
    KafkaError,
    MessageSizeTooLargeError,
    RebalanceInProgressError,
    RecordListTooLargeError,
    TopicAlreadyExistsError,
    UnknownMemberIdError,
)
from kafka.net.compat import KafkaNetClient
from kafka.structs import OffsetAndMetadata

from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Delivery
from auscult.bus.record import LONGEST_HANDLING, publishing, readable, received
from auscult.bus.topics import DEAD_LETTERS, QUARANTINE, Topic
from auscult.platform.errors import DeadLetter, Retry

_REQUEST_SECONDS = 10
_DELIVERY_SECONDS = 15
"""How long a publish may take with all its repetitions before the caller is told that the bus is unavailable."""

_LARGEST_MESSAGE = 2 * 2**20
"""Bytes. Twice what Kafka's topics take by default: an event that fitted there also fits when it is parked."""

SESSION = 10.0
"""Seconds without a heartbeat after which a consumer's partitions go to another."""

_LOST = (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
"""What a commit meets when the partition has another owner."""

_log = logging.getLogger(__name__)


@contextmanager
def _available() -> Iterator[None]:
    """Turn what the broker or the network does to us into Retry."""
    try:
        yield
    except KafkaConfigurationError:
        raise
    except (MessageSizeTooLargeError, RecordListTooLargeError):
        raise DeadLetter(
            "event-too-large", "Kafka refuses an event of this size; large data belong in the image store"
        ) from None
    except (KafkaError, OSError) as error:
        raise Retry(
            "bus-unavailable", f"Kafka did not do it ({type(error).__name__}); check AUSCULT_BUS_URL and the brokers"
        ) from None


def _end(producer: Any) -> None:
    try:
        producer.close(timeout=_DELIVERY_SECONDS + 1)
    except KafkaError as error:
        _log.warning("a producer was left without notice (%s)", type(error).__name__)


def _delivery(record: Any) -> Delivery:
    return received(
        record.topic,
        record.partition,
        record.offset,
        key=record.key or b"",
        headers=record.headers,
        data=record.value or b"",
    )


class KafkaBus:
    """A Bus on the cluster that `bootstrap` (`host:port[,host:port…]`) names. It connects when first used.

    `partitions`: of topics that it creates. `session`: seconds until a dead consumer is replaced; brokers
    accept 6 or more.
    """

    def __init__(self, bootstrap: str, partitions: int = 4, *, session: float = SESSION) -> None:
        self._partitions = partitions
        self._session = session
        self._client = {
            "bootstrap_servers": bootstrap.split(","),
            "bootstrap_timeout_ms": round(_REQUEST_SECONDS * 1000),
            "request_timeout_ms": round(_REQUEST_SECONDS * 1000),
            "reconnect_backoff_max_ms": 2000,
        }
        self._lock = threading.Lock()
        self._ready: set[str] = set()
        self._producer: Any = None

    def publish(self, topic: Topic, event: CloudEvent, *, key: str) -> None:
        """Append `event`; all in-sync replicas have it on return. DeadLetter where it is too large for Kafka."""
        with publishing(topic, event) as sent, _available():
            producer = self._prepared(topic)
            try:
                producer.send(topic.name, value=sent.data, key=key.encode(), headers=sent.to_headers()).get(
                    timeout=_DELIVERY_SECONDS + 1
                )
            except KafkaError:
                # An idempotent producer whose message expired during an outage has a gap in its sequence, and
                # kafka-python's then delivers nothing more, also when the broker is back.
                self._give_up(producer)
                raise

    @contextmanager
    def subscribe(self, *topics: Topic, group: str) -> Iterator[KafkaSubscription]:
        """Join `group` as one more consumer; a new group starts at the beginning."""
        with self._consumer(
            *topics,
            group_id=group,
            session_timeout_ms=round(self._session * 1000),
            heartbeat_interval_ms=round(self._session * 300),
            # Heartbeats come from kafka-python's own thread while a handler runs, and show that the process lives.
            # This is the second limit, between two polls; a member over it is put out of the group and its event
            # goes to another while it is still at work, so it must exceed the longest handler. The price: a member
            # that joins gets its partitions when the handlers that run at that moment have returned.
            max_poll_interval_ms=round(LONGEST_HANDLING * 1000),
        ) as consumer:
            yield KafkaSubscription(consumer, [topic.name for topic in topics])

    @contextmanager
    def tail(self, *topics: Topic) -> Iterator[KafkaTail]:
        """Read from the beginning, without a group. Partitions that are added later are not seen."""
        with self._consumer(*topics) as consumer:
            with _available():
                tail = KafkaTail(consumer, [topic.name for topic in topics])
            yield tail

    def read(self, topic: Topic) -> Iterator[Delivery]:
        """Yield all that is in the topic now, partition by partition."""
        with self.tail(topic) as tail:
            while not tail.caught_up:
                delivery = tail.poll(_REQUEST_SECONDS)
                if delivery is not None:
                    yield delivery

    def close(self) -> None:
        """Release the connections; all that was published is acknowledged already."""
        with self._lock:
            if self._producer is not None:
                _end(self._producer)
                self._producer = None

    @contextmanager
    def _consumer(self, *topics: Topic, **settings: Any) -> Iterator[Any]:
        with _available():
            for topic in topics:
                self._prepared(topic)
            consumer = self._opened(
                KafkaConsumer,
                **settings,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                allow_auto_create_topics=False,
            )
        try:
            yield consumer
        finally:
            try:
                consumer.close(autocommit=False, timeout_ms=3000)
            except KafkaError as error:
                _log.warning("Kafka was left without notice (%s); the group notices by itself", type(error).__name__)

    def _give_up(self, producer: Any) -> None:
        """Let the next publish open a new producer. This one ends aside, once what other threads sent is settled."""
        with self._lock:
            if self._producer is producer:
                self._producer = None
                threading.Thread(target=_end, args=(producer,), daemon=True).start()

    def _opened(self, kind: Callable[..., Any], **settings: Any) -> Any:
        """Open a client; where it cannot connect, end its network thread, which it would leave running."""
        network: list[Any] = []

        def remembered(**configuration: Any) -> Any:
            network.append(KafkaNetClient(**configuration))
            return network[-1]

        try:
            return kind(**self._client, **settings, kafka_client=remembered)
        except BaseException:
            for client in network:
                client.close()
            raise

    def _prepared(self, topic: Topic) -> Any:
        """Return the producer, when `topic` exists."""
        with self._lock:
            if topic.name not in self._ready:
                self._create(topic)
                self._ready.add(topic.name)
            if self._producer is None:
                self._producer = self._opened(
                    KafkaProducer,
                    acks="all",
                    enable_idempotence=True,
                    delivery_timeout_ms=_DELIVERY_SECONDS * 1000,
                    max_block_ms=round(_REQUEST_SECONDS * 1000),
                    max_request_size=_LARGEST_MESSAGE,
                    allow_auto_create_topics=False,
                )
            return self._producer

    def _create(self, topic: Topic) -> None:
        settings = {}
        if topic.compacted:
            settings["cleanup.policy"] = "compact"
        if topic in (DEAD_LETTERS, QUARANTINE):
            # A parked event is the only copy that somebody will look at: it waits for that as long as it takes.
            settings |= {"retention.ms": "-1", "max.message.bytes": str(_LARGEST_MESSAGE)}
        admin = self._opened(KafkaAdminClient)
        try:
            # Asked first, so that an account that may not create topics can use those that exist.
            if admin.describe_topics([topic.name])[0]["error_code"]:
                try:
                    admin.create_topics({topic.name: {"num_partitions": self._partitions, "configs": settings}})
                except TopicAlreadyExistsError:
                    _log.debug("another process created %s at this moment", topic.name)
                admin.wait_for_topics([topic.name])
        finally:
            admin.close()


class KafkaSubscription(ConsumerRebalanceListener):  # type: ignore[misc]
    """One member of a group; used by one thread. Read `contract.Subscription`."""

    def __init__(self, consumer: Any, topics: list[str]) -> None:
        self._consumer = consumer
        # The last offset that was returned from each partition since it is ours. Kafka itself accepts a commit
        # from any member of the current generation, also for a partition that has gone to another member.
        self._returned: dict[TopicPartition, int] = {}
        consumer.subscribe(topics, listener=self)

    def poll(self, timeout: float) -> Delivery | None:
        """Return the next event in the partitions that are ours, or None after `timeout` seconds without one."""
        with _available():
            # One at a time: what a batch holds back would not be handed over when a partition moves.
            for partition, records in self._consumer.poll(timeout_ms=timeout * 1000, max_records=1).items():
                for record in records:
                    self._returned[partition] = max(record.offset, self._returned.get(partition, -1))
                    return _delivery(record)
        return None

    def commit(self, delivery: Delivery) -> None:
        """Store that the group handled `delivery` and all before it in its partition."""
        partition = TopicPartition(delivery.topic, delivery.partition)
        if delivery.offset > self._returned.get(partition, -1):
            return
        with _available():
            try:
                self._consumer.commit({partition: OffsetAndMetadata(delivery.offset + 1, "", -1)})
            except _LOST as error:
                _log.info("a commit came too late (%s); the event is delivered again", type(error).__name__)

    def rewind(self, delivery: Delivery) -> None:
        """Read its partition again from `delivery` on, where it is still ours."""
        partition = TopicPartition(delivery.topic, delivery.partition)
        if partition in self._returned:
            self._consumer.seek(partition, delivery.offset)

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Forget what was returned from partitions that go to others."""
        for partition in revoked:
            self._returned.pop(partition, None)

    def on_partitions_lost(self, lost: Any) -> None:
        """Do as for `on_partitions_revoked`: the group has put this member out."""
        self.on_partitions_revoked(lost)

    def on_partitions_assigned(self, assigned: Any) -> None:
        """Do nothing: reading starts at the committed offset."""


class KafkaTail:
    """Reads whole topics, each partition in order."""

    def __init__(self, consumer: Any, topics: list[str]) -> None:
        self._consumer = consumer
        self._page: deque[Delivery] = deque()
        partitions = [
            TopicPartition(topic, number) for topic in topics for number in consumer.partitions_for_topic(topic)
        ]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        self._behind: dict[TopicPartition, int] = consumer.end_offsets(partitions)

    def poll(self, timeout: float) -> Delivery | None:
        """Return the next delivery, or None after `timeout` seconds without one."""
        if not self._page:
            with _available():
                for records in self._consumer.poll(timeout_ms=timeout * 1000).values():
                    self._page.extend(filter(readable, map(_delivery, records)))
        return self._page.popleft() if self._page else None

    @property
    def caught_up(self) -> bool:
        """Whether all that was in the topics when the tail was opened has been returned."""
        if self._page:
            return False
        # The reader's position, not the last offset returned: the log may end with what is not returned at all.
        with _available():
            self._behind = {
                partition: end
                for partition, end in self._behind.items()
                if (self._consumer.position(partition) or 0) < end
            }
        return not self._behind
