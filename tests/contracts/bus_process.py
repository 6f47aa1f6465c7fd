"""A second process for the bus contract: publishes, or handles one event and never returns."""

from __future__ import annotations

import sys
import threading

from auscult.bus.cloudevents import CloudEvent
from auscult.bus.consume import consume
from auscult.bus.contract import Bus, Delivery
from auscult.bus.topics import Topic


def open_impatient(url: str) -> Bus:
    """Open a bus that replaces a dead consumer as soon as its adapter can."""
    if url.startswith("sqlite:"):
        from auscult.bus.sqlite import SqliteBus

        return SqliteBus(url.removeprefix("sqlite:"), lease=0.5)
    from auscult.bus.kafka import KafkaBus

    return KafkaBus(url.removeprefix("kafka://"), session=6.0)


def publish(url: str, topic: str, worker: str, count: str) -> None:
    """Publish `count` events under the worker's own key, when told to start."""
    bus = open_impatient(url)
    print("ready", flush=True)  # noqa: T201 - the parent waits for it
    sys.stdin.readline()
    for number in range(int(count)):
        bus.publish(Topic(topic), CloudEvent.of("test", "/test", number), key=worker)
    bus.close()


def hold(url: str, topic: str, group: str) -> None:
    """Take one event, say so, and stay in the handler until killed."""

    def handler(delivery: Delivery) -> None:
        print(delivery.event.id, flush=True)  # noqa: T201 - the parent waits for it
        threading.Event().wait()

    consume(
        open_impatient(url),
        Topic(topic),
        group=group,
        handler=handler,
        source="/test",
        max_tries=1,
        stop=threading.Event(),
    )


if __name__ == "__main__":
    {"publish": publish, "hold": hold}[sys.argv[1]](*sys.argv[2:])
