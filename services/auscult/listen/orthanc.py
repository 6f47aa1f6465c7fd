"""Orthanc as a source: its change feed is followed, and each study that became stable is taken.

How far the feed was read is a note in the image store, so nothing is missed while we are away. Orthanc may wake the
follower when a study becomes stable (`POST /orthanc/stable-study`); all that is believed comes from the feed.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import httpx
import msgspec

from auscult.bus.contract import Bus
from auscult.domain.identity import pseudonym
from auscult.imaging.spool import Spool
from auscult.imaging.store import OUT_OF_RESOURCES, ImageStore
from auscult.listen.expectation import Step, expect
from auscult.listen.reception import Reception, as_file
from auscult.platform.errors import Refused, Retry
from auscult.platform.settings import Settings

POLL = 10.0
"""Seconds between looks at the feed, where nobody wakes us."""
PAUSE = 5.0
"""Seconds before the next try where Orthanc or the bus is away, or the store is full."""
AT_ONCE = 100
"""Changes that are asked for in one request."""
NOTE = "orthanc/changes"

_log = logging.getLogger(__name__)


class _Mark(msgspec.Struct):
    """How far the feed was read. `taking`: the study on which the last process worked."""

    seq: int
    taking: str = ""


class OrthancFollower:
    """Follows one Orthanc, in a thread of its own, until `stop`."""

    def __init__(self, settings: Settings, bus: Bus, store: ImageStore) -> None:
        self._settings, self._bus, self._store = settings, bus, store
        self._tenant = settings.tenant
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="orthanc", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Look at the feed now."""
        self._woken.set()

    def stop(self) -> None:
        """Return when the study that is being taken, if any, is dealt with."""
        self._stopping.set()
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _follow(self) -> None:
        with httpx.Client(
            base_url=self._settings.orthanc_url.rstrip("/"), timeout=self._settings.pacs_timeout, trust_env=False
        ) as orthanc:
            while not self._stopping.is_set():
                self._woken.clear()
                try:
                    more = self._read(orthanc)
                except (httpx.HTTPError, OSError, ValueError, KeyError, TypeError, Refused, Retry) as problem:
                    # The text of an error of HTTP has the address.
                    told = problem.reason if isinstance(problem, Refused | Retry) else type(problem).__name__
                    _log.warning("Orthanc's changes cannot be taken now, they are tried again (%s)", told)
                    self._stopping.wait(PAUSE)
                    continue
                if not more:
                    self._woken.wait(POLL)

    def _read(self, orthanc: httpx.Client) -> bool:
        """Deal with the next changes; return whether there are more."""
        mark = self._mark(orthanc)
        feed = self._get(orthanc, "/changes", since=mark.seq, limit=AT_ONCE)
        for change in feed["Changes"]:
            if self._stopping.is_set():
                return False
            if change["ChangeType"] == "StableStudy":
                again = mark.taking == change["ID"]
                self._note(_Mark(mark.seq, change["ID"]))
                self._take(orthanc, change["ID"], again=again)
                mark = _Mark(int(change["Seq"]))
                self._note(mark)
        self._note(_Mark(max(mark.seq, int(feed["Last"]))))
        return not feed["Done"]

    def _mark(self, orthanc: httpx.Client) -> _Mark:
        """Return where to go on: at first with what is to come; from the start where Orthanc was set up anew."""
        last = int(self._get(orthanc, "/changes", last="")["Last"])
        known = self._store.note(self._tenant, NOTE)
        mark = msgspec.json.decode(known, type=_Mark) if known else _Mark(last)
        if mark.seq > last:
            mark = _Mark(0)
        self._note(mark)
        return mark

    def _take(self, orthanc: httpx.Client, identity: str, *, again: bool) -> None:
        """Take a study's instances that are not here; all of them where an earlier try did not come to its end."""
        try:
            study = str(self._get(orthanc, f"/studies/{identity}")["MainDicomTags"]["StudyInstanceUID"])
            series = self._get(orthanc, f"/studies/{identity}/series")
            instances = self._get(orthanc, f"/studies/{identity}/instances")
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.NOT_FOUND:
                return  # It was deleted meanwhile.
            raise
        uids = {each["ID"]: str(each["MainDicomTags"]["SOPInstanceUID"]) for each in instances}
        named = {
            str(each["MainDicomTags"]["SeriesInstanceUID"]): [uids[key] for key in each["Instances"] if key in uids]
            for each in series
        }
        here = {path.stem for path in self._store.instances(self._tenant, study)}
        wanted = [key for key, uid in uids.items() if again or uid not in here]
        if not wanted:
            return
        expect(self._store, self._tenant, study, "orthanc", Step("COMPLETED", named))
        reception, whole = Reception(self._tenant, self._bus, self._store, "orthanc"), False
        try:
            for key in wanted:
                self._take_instance(orthanc, key, study, reception)
            whole = True
        finally:
            reception.end(aborted=not whole)
            reception.tell_the_rest(self._stopping)
        _log.info("study %s: %d instances were taken from Orthanc", pseudonym(self._tenant, study), len(wanted))

    def _take_instance(self, orthanc: httpx.Client, key: str, study: str, reception: Reception) -> None:
        """Take one; what is refused for good has its outcome. Retry, Refused: the study is to be tried again."""
        spool = Spool(self._store, self._settings.max_object_bytes)
        try:
            with orthanc.stream("GET", f"/instances/{key}/file", headers=self._authorization()) as answer:
                for piece in answer.raise_for_status().iter_bytes():
                    spool.write(piece)
            taken = reception.take(as_file(spool), study_uid=study)
        finally:
            spool.close()
        if taken.problem is not None and (isinstance(taken.problem, Retry) or taken.status == OUT_OF_RESOURCES):
            raise taken.problem

    def _get(self, orthanc: httpx.Client, path: str, **query: Any) -> Any:
        return orthanc.get(path, params=query, headers=self._authorization()).raise_for_status().json()

    def _authorization(self) -> dict[str, str]:
        file = self._settings.orthanc_authorization_file
        return {"Authorization": file.read_text().strip()} if file else {}

    def _note(self, mark: _Mark) -> None:
        text = msgspec.json.encode(mark)
        if self._store.note(self._tenant, NOTE) != text:
            self._store.write_note(self._tenant, NOTE, text)
