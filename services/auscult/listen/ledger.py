"""Which deliveries are still being worked on, where one piece of work spans many of them.

A commit covers all before it in its partition, so what is done waits until nothing before it is open.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from auscult.bus.contract import Delivery


@dataclass
class _Partition:
    unfinished: dict[int, Delivery] = field(default_factory=dict)
    """By offset, in their order; the first is open, unless there is none."""
    done: set[int] = field(default_factory=set)
    """Those of `unfinished` that are dealt with, and wait for one before them."""


class Ledger:
    """One consumer's deliveries between `poll` and `commit`."""

    def __init__(self) -> None:
        self._partitions: defaultdict[tuple[str, int], _Partition] = defaultdict(_Partition)

    def open(self, delivery: Delivery) -> None:
        """Note that `delivery` was read."""
        place = delivery.topic, delivery.partition
        if delivery.offset <= next(reversed(self._partitions[place].unfinished), -1):
            # The partition was another's for a while, and is read again from where the group committed.
            self._partitions[place] = _Partition()
        self._partitions[place].unfinished[delivery.offset] = delivery

    def done(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """Note that these are dealt with; return what to commit now, at most one delivery of each partition."""
        touched = {}
        for delivery in deliveries:
            partition = touched[delivery.topic, delivery.partition] = self._partitions[
                delivery.topic, delivery.partition
            ]
            if delivery.offset in partition.unfinished:
                partition.done.add(delivery.offset)
        return [last for partition in touched.values() if (last := _finished(partition)) is not None]


def _finished(partition: _Partition) -> Delivery | None:
    """Take away what is done up to the first that is open, and return the last of it."""
    last = None
    while (first := next(iter(partition.unfinished), -1)) in partition.done:
        partition.done.discard(first)
        last = partition.unfinished.pop(first)
    return last
