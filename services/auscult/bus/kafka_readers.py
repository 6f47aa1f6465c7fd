"""Reading from Apache Kafka: as a member of a group, and without one."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka import TopicPartition
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
    UnknownMemberIdError,
)
from kafka.structs import OffsetAndMetadata

from auscult.bus.contract import Delivery
from auscult.bus.record import readable, received
from auscult.platform.errors import DeadLetter, Retry

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
def available() -> Iterator[None]:
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
            "bus-unavailable",
            f"Kafka did not do it ({type(error).__name__}); check AUSCULT_BUS_URL, the brokers, "
            "and what AUSCULT_KAFKA_… says of certificates and the account",
        ) from None


def _delivery(record: Any) -> Delivery:
    return received(
        record.topic,
        record.partition,
        record.offset,
        key=record.key or b"",
        headers=record.headers,
        data=record.value or b"",
    )


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
        with available():
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
        with available():
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

    def __init__(self, consumer: Any, topics: list[str], start: Mapping[tuple[str, int], int]) -> None:
        self._consumer = consumer
        self._page: deque[Delivery] = deque()
        partitions = [
            TopicPartition(topic, number) for topic in topics for number in consumer.partitions_for_topic(topic)
        ]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        self._behind: dict[TopicPartition, int] = consumer.end_offsets(partitions)
        for partition, end in self._behind.items():
            first = start.get((partition.topic, partition.partition), 0)
            if 0 < first <= end:
                consumer.seek(partition, first)

    def poll(self, timeout: float) -> Delivery | None:
        """Return the next delivery, or None after `timeout` seconds without one."""
        if not self._page:
            with available():
                for records in self._consumer.poll(timeout_ms=timeout * 1000).values():
                    self._page.extend(filter(readable, map(_delivery, records)))
        return self._page.popleft() if self._page else None

    @property
    def caught_up(self) -> bool:
        """Whether all that was in the topics when the tail was opened has been returned."""
        if self._page:
            return False
        # The reader's position, not the last offset returned: the log may end with what is not returned at all.
        with available():
            self._behind = {
                partition: end
                for partition, end in self._behind.items()
                if (self._consumer.position(partition) or 0) < end
            }
        return not self._behind
