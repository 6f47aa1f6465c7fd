"""What a PACS is for us, whichever protocol it speaks: something that holds, takes and gives back objects."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Sequence
from typing import Protocol, Self
from urllib.parse import urlsplit

from pydicom.dataset import Dataset

from auscult.domain.deadline import Deadline
from auscult.platform.errors import AuscultError, DeadLetter, RefuseToStart, Retry
from auscult.platform.settings import Settings

DUPLICATE = {0x0111, 0xB00E}
"""Statuses and failure reasons that say that the instance is there already (PS3.7, C.5.4; some PACS say 0xB00E)."""
WARNINGS = {0xB000, 0xB006, 0xB007}
"""Stored, with elements coerced or discarded, or not as its class says (PS3.4, B.2.3)."""
LATER = {0x0110, 0x0210, 0x0213}
"""Processing failure, duplicate invocation, resource limitation: another try may do better. So may 0xA7xx."""


class Archive(Protocol):
    """One PACS. Each call takes no longer than the deadline and the time-out allow.

    Retry where the same call may succeed later, DeadLetter where the PACS does not want the object.
    """

    def held(self, study_uid: str, instances: Collection[str], deadline: Deadline) -> set[str]:
        """Return which of the SOP Instance UIDs the PACS has; none where it cannot be asked."""

    def store(self, datasets: Sequence[Dataset], deadline: Deadline) -> None:
        """Store objects of one study; what is there already counts as stored."""

    def retrieve(self, dataset: Dataset, deadline: Deadline) -> Dataset | None:
        """Return what the PACS has under the object's UIDs; None where it gives no objects back. Retry: not there."""

    def close(self) -> None:
        """Let go of connections and ports."""


class Address(tuple[str, str, int]):
    """AE title, host and port of `dicom://AET@host:port` (`dicoms` for TLS)."""

    __slots__ = ()

    @classmethod
    def parse(cls, url: str) -> Self:
        """RefuseToStart where `url` is none."""
        try:
            place = urlsplit(url)
            # The user part as it was written: an AE title is case sensitive.
            title, host, port = place.username or "", place.hostname or "", place.port or 0
        except ValueError:
            title, host, port = "", "", 0
        if not (0 < len(title) <= 16 and host and port):
            raise RefuseToStart("pacs-url-invalid", "AUSCULT_PACS_URL needs the form dicom://AET@host:port")
        return cls((title, host, port))


def tls(settings: Settings) -> ssl.SSLContext:
    """Return how to trust the PACS, and how it may trust us. RefuseToStart where a file cannot be used."""
    try:
        context = ssl.create_default_context(cafile=settings.pacs_tls_ca)
        if settings.pacs_tls_cert:
            context.load_cert_chain(settings.pacs_tls_cert, settings.pacs_tls_key)
    except (OSError, ssl.SSLError) as error:
        raise RefuseToStart(
            "pacs-tls-invalid",
            f"AUSCULT_PACS_TLS_CA, _CERT and _KEY need readable PEM files ({type(error).__name__})",
        ) from None
    return context


def failed(status: int) -> AuscultError | None:
    """Return the error for a C-STORE status, or a STOW-RS failure reason; None where the object is stored."""
    if status == 0 or status in DUPLICATE or status in WARNINGS:
        return None
    said = f"the PACS answered with status 0x{status:04X}"
    if status in LATER or status >> 8 == 0xA7:
        return Retry("pacs-failed", f"{said}; see that it has space and can write")
    return DeadLetter("pacs-refused", f"{said}; have it accept SEG, SR and what else is sent, then replay")


def unavailable(what: str, cause: str) -> Retry:
    """Return the error for a PACS that does not answer."""
    return Retry("pacs-unavailable", f"the PACS did not answer {what} ({cause}); see that it runs and can be reached")


def missing(service: str) -> Retry:
    """Return the error for an object that was stored and is not given back: a PACS may take its time to index it."""
    return Retry("pacs-missing", f"the PACS does not give back by {service} what it was sent; see that it keeps it")
