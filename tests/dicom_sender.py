"""A modality, as the listener's tests need one: a real SCU over loopback."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from unittest import mock

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association

from auscult.bus.contract import Bus, Delivery
from auscult.bus.topics import Topic

VERIFICATION = "1.2.840.10008.1.1"
PATIENCE = 20.0
"""Seconds to wait for what must come; nothing is asserted about how long it took."""


def associate(port: int, *, title: str = "AUSCULT") -> Association:
    """Ask for an association as modality `MODALITY`."""
    ae = AE("MODALITY")
    ae.add_requested_context(VERIFICATION)
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    return ae.associate("127.0.0.1", port, ae_title=title)


@contextmanager
def associated(port: int) -> Iterator[Association]:
    """Run a block with an association that is released after it."""
    association = associate(port)
    assert association.is_established
    yield association
    association.release()


def store(association: Association, dataset: Dataset, *, sent_as: bytes | None = None) -> Dataset:
    """C-STORE `dataset` and return the answer. `sent_as`: other bytes on the wire than its own."""
    if sent_as is None:
        return association.send_c_store(dataset)
    with mock.patch("pynetdicom.association.encode", return_value=sent_as):
        return association.send_c_store(dataset)


def send(port: int, datasets: Iterable[Dataset]) -> list[int]:
    """C-STORE `datasets` in one association and return the statuses."""
    with associated(port) as association:
        return [int(store(association, dataset).Status) for dataset in datasets]


def take(bus: Bus, topic: Topic, count: int) -> list[Delivery]:
    """Wait until `topic` holds `count` events, and return all that it holds."""
    taken: list[Delivery] = []
    end = time.monotonic() + PATIENCE
    with bus.tail(topic) as tail:
        while len(taken) < count or not tail.caught_up:
            assert time.monotonic() < end, f"{topic.name} has {len(taken)} events, {count} were expected"
            delivery = tail.poll(0.5)
            if delivery is not None:
                taken.append(delivery)
    return taken
