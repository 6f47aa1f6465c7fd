"""Replicas of the hooks service on a real Kafka: what one learns, all do."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from stack.servers import Kafka

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.kafka import KafkaBus
from auscult.bus.switches import switch
from auscult.bus.topics import FINDINGS
from auscult.cds_hooks.store import CardStore
from auscult.cds_hooks.trust import replay
from auscult.cds_hooks.trust.replay import ReplayGuard
from auscult.domain.finding import Card
from auscult.domain.study import StudyRef
from fhir_samples import BROCK, finding, result

SOON = 60.0
"""Seconds within which a switch has to be in force."""


def eventually(happened: Callable[[], bool]) -> float:
    """Return the seconds until `happened`."""
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < SOON
        time.sleep(0.005)
    return time.monotonic() - began


@contextmanager
def replica(broker: Kafka, folder: Path) -> Iterator[CardStore]:
    """Run a card store of its own, with a snapshot in `folder`."""
    store, stop = CardStore("https://auscult.example.org", path=folder / "cards.snapshot"), threading.Event()
    store.resume()
    with closing(KafkaBus(broker.address)) as bus:
        threads = [
            threading.Thread(target=store.follow, args=(bus, stop)),
            threading.Thread(target=store.keep_saved, args=(stop,)),
        ]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: store.ready)
            yield store
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_a_model_is_switched_off_on_every_replica(broker: Kafka, tmp_path: Path) -> None:
    """Within 60 s its cards are gone from all, from one that starts from a snapshot, too; then they are back."""

    def shown(store: CardStore) -> list[str]:
        return [json.loads(card)["summary"] for card in store.cards("replicas", "Patient/replicas")]

    found = result(
        finding("nodule-1"),
        patient="Patient/replicas",
        study=StudyRef("replicas", "1.2.3", "d"),
        card=Card("A nodule", "info", "detail", "Auscult", (BROCK,)),
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with closing(KafkaBus(broker.address)) as bus:
        bus.publish(FINDINGS, CloudEvent.of(events.RESULT, "/test", found), key=f"{found.study.key}|lung_nodule")
        with replica(broker, tmp_path / "a") as one, replica(broker, tmp_path / "b") as two:
            eventually(lambda: shown(one) == shown(two) == ["A nodule"])
            switch(bus, BROCK.name, enabled=False, reason="recall", by="test")
            took = eventually(lambda: "withheld" in shown(one)[0] and "withheld" in shown(two)[0])
        with replica(broker, tmp_path / "a") as again:
            assert "withheld" in shown(again)[0]
            switch(bus, BROCK.name, enabled=True, reason="checked", by="test")
            eventually(lambda: shown(again) == ["A nodule"])
    assert took < SOON


def test_a_token_is_good_for_one_replica(broker: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that are given it at one moment one takes it, and neither does again."""
    monkeypatch.setattr(replay, "PATIENCE", SOON)  # a loaded machine's bus is slow, not away

    async def both(guards: list[ReplayGuard], jti: str) -> list[bool]:
        return list(await asyncio.gather(*(guard.first(jti, time.time() + 60) for guard in guards)))

    with closing(KafkaBus(broker.address)) as bus:
        guards = [ReplayGuard(bus), ReplayGuard(bus)]
        for guard in guards:
            guard.start()
        try:
            eventually(lambda: all(guard.ready for guard in guards))
            taken = [asyncio.run(both(guards, f"token-{number}")) for number in range(20)]
            assert all(sum(each) == 1 for each in taken)
            assert not any(asyncio.run(both(guards, "token-3")))
        finally:
            for guard in guards:
                guard.close()
