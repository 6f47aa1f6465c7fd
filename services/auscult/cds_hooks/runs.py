"""What the bus said last of each run of a pathway, by patient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class OfPatient(Protocol):
    """An event about a run, which says whose it is."""

    @property
    def tenant(self) -> str:
        """Who has the patient."""

    @property
    def patient(self) -> str:
        """`Patient/<id>`."""


T = TypeVar("T", bound=OfPatient)


@dataclass(slots=True)
class Runs(Generic[T]):
    """One event for each run. One thread puts and drops, any may ask."""

    _known: dict[bytes, T] = field(default_factory=dict)
    _by_patient: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[tuple[bytes, T]]:
        yield from self._known.items()

    def put(self, key: bytes, told: T) -> None:
        """Keep an event in place of the run's earlier one."""
        self.drop(key)
        self._known[key] = told
        whose = patient_key(told.tenant, told.patient)
        self._by_patient[whose] = (*self._by_patient.get(whose, ()), key)

    def drop(self, key: bytes) -> None:
        """Forget a run."""
        told = self._known.pop(key, None)
        if told is None:
            return
        whose = patient_key(told.tenant, told.patient)
        left = tuple(each for each in self._by_patient[whose] if each != key)
        if left:
            self._by_patient[whose] = left
        else:
            del self._by_patient[whose]

    def of(self, whose: bytes) -> tuple[T, ...]:
        """Return what is known of a patient's runs."""
        found = (self._known.get(key) for key in self._by_patient.get(whose, ()))
        return tuple(told for told in found if told is not None)


def patient_key(tenant: str, patient: str) -> bytes:
    """Return the bytes under which a patient's cards are: no tenant has a `|` in its name."""
    return f"{tenant}|{patient}".encode("utf-8", "surrogatepass")
