"""The pathway worker, killed by the kernel at the worst moment: `python worker_that_dies.py record|card`.

Right after its result is in the FHIR server, or with its card out and nothing in the PACS.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from auscult.entrypoints import pathways
from auscult.publish.fhir.sink import FhirSink
from auscult.publish.pacs.sink import PacsSink


class DyingSink(FhirSink):
    """Writes, then takes the whole process with it: no findings event, no offset."""

    def write(self, *given: Any) -> bool:
        """Write the result and die."""
        super().write(*given)
        os.kill(os.getpid(), signal.SIGKILL)
        return True


class DyingPacsSink(PacsSink):
    """Takes the whole process with it before it writes: the card is out, the offset is not committed."""

    def write(self, *_: Any) -> bool:
        """Die."""
        os.kill(os.getpid(), signal.SIGKILL)
        return True


if sys.argv[1] == "record":
    pathways.FhirSink = DyingSink  # type: ignore[misc]
else:
    pathways.PacsSink = DyingPacsSink  # type: ignore[misc]
pathways.main()
