"""The bus on Apache Kafka, through kafka-python.

Published is acknowledged by all in-sync replicas (acks=all, idempotent producer). Offsets are committed one by
one after the work; nothing is committed by itself. Topics that are missing are created with what they need;
a site that wants other numbers creates them itself before.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError, TopicAlreadyExistsError
from kafka.net.compat import KafkaNetClient

from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Delivery
from auscult.bus.kafka_readers import KafkaSubscription, KafkaTail, available
from auscult.bus.record import LONGEST_HANDLING, publishing
from auscult.bus.topics import DEAD_LETTERS, QUARANTINE, Topic

_REQUEST_SECONDS = 10
_DELIVERY_SECONDS = 15
"""How long a publish may take with all its repetitions before the caller is told that the bus is unavailable."""

_LARGEST_MESSAGE = 2 * 2**20
"""Bytes. Twice what Kafka's topics take by default: an event that fitted there also fits when it is parked."""

SESSION = 10.0
"""Seconds without a heartbeat after which a consumer's partitions go to another."""

_NOWHERE: Mapping[tuple[str, int], int] = {}

_log = logging.getLogger(__name__)


def _end(producer: Any) -> None:
    try:
        producer.close(timeout=_DELIVERY_SECONDS + 1)
    except KafkaError as error:
        _log.warning("a producer was left without notice (%s)", type(error).__name__)


class KafkaBus:
    """A Bus on the cluster that `bootstrap` (`host:port[,host:port…]`) names. It connects when first used.

    `partitions`: of topics that it creates. `session`: seconds until a dead consumer is replaced; brokers
    accept 6 or more. `security`: how it proves who it is, as kafka-python's options.
    """

    def __init__(
        self,
        bootstrap: str,
        partitions: int = 4,
        *,
        session: float = SESSION,
        security: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._partitions = partitions
        self._session = session
        self._client = {
            **security,
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
        with publishing(topic, event) as sent, available():
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
    def tail(self, *topics: Topic, start: Mapping[tuple[str, int], int] = _NOWHERE) -> Iterator[KafkaTail]:
        """Read from the beginning, or from `start`, without a group. Partitions that are added later are not seen."""
        with self._consumer(*topics) as consumer:
            with available():
                tail = KafkaTail(consumer, [topic.name for topic in topics], start)
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
        with available():
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
        if topic.kept is not None:
            settings |= {"retention.ms": str(round(topic.kept * 1000)), "segment.ms": str(round(topic.kept * 250))}
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
