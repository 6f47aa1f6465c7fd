"""What is known of a study between its first instance's arrival and its judgement."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from auscult.bus.contract import Delivery
from auscult.bus.events import InstancesDelivered, InstanceStored
from auscult.domain.study import StudyRef
from auscult.imaging.completeness import Completeness
from auscult.imaging.gate import admit
from auscult.imaging.header import InstanceHeader
from auscult.imaging.store import ImageStore
from auscult.listen.expectation import Expectation
from auscult.platform.errors import DeadLetter, Refused


@dataclass
class Gathering:
    """One study that has news. The image store has the truth; this is what arrived since it was judged last."""

    ref: StudyRef
    """Without a digest: it has no version yet."""
    store: ImageStore
    deliveries: list[Delivery] = field(default_factory=list)
    headers: dict[Path, InstanceHeader] = field(default_factory=dict)
    """Read as instances arrive, so that nothing is left to read when the last one is there."""
    brought: defaultdict[str, set[Path]] = field(default_factory=lambda: defaultdict(set))
    """By association."""
    sending: set[str] = field(default_factory=set)
    """Associations whose end was not told yet."""
    quiet_since: float = field(default_factory=time.monotonic)
    last_stored: float = 0.0
    """Seconds since the epoch."""
    traceparent: str = ""
    expectation: Expectation = field(init=False)

    def __post_init__(self) -> None:
        self.hear()

    def hear(self, delivery: Delivery | None = None) -> None:
        """Read anew what the study should hold. Refused (`invalid-uid`) where no such study can be in the store."""
        self.expectation = Expectation.of(self.store, self.ref.tenant, self.ref.study_uid)
        if delivery is not None:
            self.deliveries.append(delivery)

    @property
    def whole(self) -> bool | None:
        """Whether all is here that modalities and PACSs named, and nobody is sending; None where nothing was told."""
        named = self.expectation.whole(self._files())
        return None if named is None else named and not self.sending

    def doubt(self) -> Completeness | None:
        """Say why what is here is not to be computed as it stands, though it makes a volume."""
        return self.expectation.doubt(self._files())

    @property
    def sent(self) -> bool:
        """Whether instances arrived, or somebody's sending ended, since it was judged last."""
        return bool(self.brought)

    def add(self, delivery: Delivery, told: InstanceStored) -> None:
        """Note that an instance arrived. Refused (`invalid-uid`) where it cannot be in the store."""
        path = self.store.path(told.tenant, told.study_uid, told.series_uid, told.sop_instance_uid)
        self.deliveries.append(delivery)
        self.brought[told.association].add(path)
        self.sending.add(told.association)
        self.quiet_since = time.monotonic()
        self.last_stored = max(self.last_stored, _moment(delivery.event.time))
        with suppress(DeadLetter):  # The judgement meets it again, and tells it once.
            self._header(path)

    def end(self, delivery: Delivery, told: InstancesDelivered) -> bool:
        """Note the end of an association; return whether it was released and brought all that the study has.

        Refused (`invalid-uid`) where no such study can be in the store.
        """
        files = set(self._files())
        self.deliveries.append(delivery)
        self.sending.discard(told.association)
        self.traceparent = delivery.event.traceparent
        brought = self.brought[told.association]
        return not told.aborted and len(brought) == told.count and brought == files

    @property
    def count(self) -> int:
        """How many instances of the study the store has."""
        return len(self._files())

    def read(self) -> list[InstanceHeader]:
        """Return the headers of all that the store has of the study. DeadLetter where one cannot be read."""
        files = self._files()
        missing = set().union(*self.brought.values()).difference(files)
        if missing:
            raise DeadLetter(
                "instance-missing",
                f"{len(missing)} instances were stored and are not in the image store; restore or send them again",
            )
        return [self._header(path) for path in files]

    def _files(self) -> list[Path]:
        return self.store.instances(self.ref.tenant, self.ref.study_uid)

    def _header(self, path: Path) -> InstanceHeader:
        if path not in self.headers:
            try:
                self.headers[path] = admit(path)
            except Refused as problem:
                cause = problem.reason
            except OSError as error:
                cause = type(error).__name__
            else:
                return self.headers[path]
            raise DeadLetter(
                "instance-unreadable",
                f"a stored instance cannot be read ({cause}); check the image store, then replay this event",
            )
        return self.headers[path]


def _moment(text: str) -> float:
    """Return an event's time in seconds since the epoch; now, where it has none that can be read."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return time.time()
