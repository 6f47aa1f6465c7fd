"""What was announced of each study, so that our own results, forwarded by the PACS, do not start another run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

MOST = 10_000
"""Studies that are remembered; a forgotten one costs a run that changes nothing."""


class Announced:
    """Remembers each study's last digest, and which results of ours the store had with it."""

    def __init__(self) -> None:
        self._studies: OrderedDict[str, tuple[str, frozenset[str]]] = OrderedDict()

    def note(self, study: str, version: str, own_results: Collection[str], *, sent: bool = True) -> bool:
        """Remember a version, and return whether nothing is new in it but results of ours.

        Where nothing at all is new and it was `sent`, somebody sent the study again, which is a request.
        `own_results`: their SOP Instance UIDs.
        """
        before = self._studies.pop(study, None)
        self._studies[study] = version, frozenset(own_results)
        if len(self._studies) > MOST:
            self._studies.popitem(last=False)
        if before is None or before[0] != version:
            return False
        return not sent or not before[1].issuperset(own_results)
