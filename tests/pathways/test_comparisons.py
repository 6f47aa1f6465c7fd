"""Earlier studies: found in the store or the PACS, compared in time or not at all, and tracked through all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auscult.domain import codes
from auscult.domain.deadline import Deadline
from auscult.domain.finding import Card, Finding, Outline
from auscult.domain.identity import sop_digest
from auscult.domain.study import Patient, Study, StudyRef
from auscult.domain.volume import Region, RegionSource
from auscult.imaging.header import InstanceHeader
from auscult.imaging.notes import kept_with
from auscult.imaging.store import ImageStore
from auscult.imaging.volume import load_study
from auscult.listen import pacs
from auscult.listen.priors import BEGUN, FETCH, Priors
from auscult.pathways.comparisons import Comparisons
from auscult.pathways.earlier import Earlier
from auscult.pathways.pathway import Found, Models, Needs
from auscult.platform.errors import Retry, TellClinician
from auscult.platform.settings import Settings
from dicom_factory import JANE, Person, ct_series, encode
from local_models import LocalModels

PATIENT = Patient("Patient/7", date(1960, 2, 3), "female")
SHAPE = (8, 24, 24)
MODELS = LocalModels(Path())


def region(study: Study, z: int, source: RegionSource | None = None) -> Region:
    """Return a cube of 3 voxels about the middle of slice `z`."""
    mask = np.zeros(SHAPE, bool)
    mask[z - 1 : z + 2, 10:13, 10:13] = True
    return Region.of(mask, study.volume.geometry, source or RegionSource("model", "m", "1"))


@dataclass
class Compare:
    """A pathway that compares: each finding with what lies in the same slice of the earlier study."""

    name: str = "compares"
    version: str = "1"
    modality: str = "CT"
    needs: Needs = field(default_factory=lambda: Needs(()))
    budget: float = 60.0
    refused: str = ""
    problem: Exception | None = None
    seen: list[str] = field(default_factory=list)

    def found(self, study: Study, *heights: int, source: RegionSource | None = None) -> Found:
        """Return findings in the slices `heights`."""
        regions = tuple(region(study, z, source) for z in heights)
        outline = Outline("1.2", "1.3", 4, (), "model", "m")
        findings = tuple(
            Finding(f"f-{n}", codes.NODULE, codes.LUNG, "", "", outline, (), tracking_uid=each.source.tracking_uid)
            for n, each in enumerate(regions, start=1)
        )
        return Found(findings, regions=regions)

    def find(self, study: Study, *_: Any) -> Found:
        """Find one thing."""
        return self.found(study, 4)

    def card(self, found: Found) -> Card:
        """Say what was compared."""
        return Card("compared", "info", found.compared, "compares")

    def comparable(self, earlier: Study) -> None:
        """Refuse a study."""
        self.seen.append(earlier.ref.study_uid)
        if earlier.ref.study_uid == self.refused:
            raise TellClinician("no-lungs", "an earlier CT shows no lungs")

    def compare(self, found: Found, study: Study, earlier: Study, models: Models, deadline: Deadline) -> Found:
        """Match by slice."""
        assert study.volume is not None
        assert models is not None
        assert deadline.remaining > 0
        if self.problem:
            raise self.problem
        counterparts = tuple(region(earlier, each.offset[0] + 1) for each in found.regions)
        return replace(found, counterparts=counterparts, compared=f"compared with {earlier.acquired}")


@dataclass
class Site:
    """A store with studies of one patient, and a record that knows them."""

    store: ImageStore
    settings: Settings
    pathway: Compare = field(default_factory=Compare)
    recorded: list[dict[str, Any]] = field(default_factory=list)
    down: bool = False
    patience: float = 30.0

    def known(self, patient: str) -> list[dict[str, Any]]:
        """Return the record's ImagingStudies."""
        assert patient == PATIENT.reference
        if self.down:
            raise Retry("fhir-unavailable", "down")
        return self.recorded

    def study(self, day: str, *, person: Person = JANE, told: bool = True) -> Study:
        """Store a study of a day, `told`: the record knows it, and load it."""
        slices = ct_series(SHAPE, (2.0, 1.0, 1.0), patient=person)
        for dataset in slices:
            dataset.StudyDate = dataset.AcquisitionDate = day.replace("-", "")
            data = encode(dataset)
            self.store.put("default", InstanceHeader.read(data), data)
        uid = str(slices[0].StudyInstanceUID)
        if told:
            self.recorded.append(
                {
                    "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}],
                    "started": f"{day}T09:00:00+01:00",
                    "modality": [{"code": "CT"}],
                }
            )
        digest = sop_digest(dataset.SOPInstanceUID for dataset in slices)
        return load_study(StudyRef("default", uid, digest), self.store)

    @property
    def comparisons(self) -> Comparisons:
        """Return who compares, as a process that has just been started has it."""
        return Comparisons(Earlier(Priors(self.settings, self.store), self.known), self.patience)

    def run(self, study: Study, found: Found | None = None, deadline: float = 60.0) -> Found:
        """Let the pathway find and compare."""
        comparison = self.comparisons.begin(self.pathway, study, PATIENT)
        found = found or self.pathway.find(study, PATIENT, MODELS, Deadline.after(deadline))
        return comparison.of(found, MODELS, Deadline.after(deadline))

    def tracked(self, study: Study, *heights: int) -> list[str]:
        """Return the tracking UIDs of what is found in `heights`."""
        return [each.tracking_uid for each in self.run(study, self.pathway.found(study, *heights)).findings]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a site without a PACS."""
    return Site(ImageStore(tmp_path / "images", min_free_bytes=0), Settings(home=tmp_path))


def test_the_newest_earlier_study_of_the_store_is_compared(site: Site) -> None:
    """Not a later one, not the study itself, not what the store does not have."""
    site.study("2025-03-01")
    newer = site.study("2025-09-01")
    study = site.study("2026-01-31")
    site.study("2026-02-01")
    site.recorded.append(
        {"identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}], "started": "2025-12-01"}
    )
    found = site.run(study)
    assert found.compared == "compared with 2025-09-01"
    assert site.pathway.seen == [newer.ref.study_uid]


def test_one_that_cannot_be_used_makes_way_for_the_next(site: Site) -> None:
    """The newest shows another part of the body."""
    site.study("2025-03-01")
    site.pathway.refused = site.study("2025-09-01").ref.study_uid
    assert site.run(site.study("2026-01-31")).compared == "compared with 2025-03-01"


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda _: None, "none of the patient is known"),
        (lambda site: setattr(site, "down", True), "the record does not say which there are (fhir-unavailable)"),
        (lambda site: site.study("2025-09-01", person=Person("P-2")), "none that is known can be used"),
        (lambda site: setattr(site.pathway, "refused", site.study("2025-09-01").ref.study_uid), "shows no lungs"),
        (lambda site: _breaks(site, TellClinician("x", "nobody drew in it")), "nobody drew in it"),
        (lambda site: _breaks(site, Retry("inference-unavailable", "down")), "(inference-unavailable)"),
        (lambda site: _breaks(site, KeyError("Doe^Jane")), "the comparison failed; see the log"),
        (lambda site: site.recorded.append({"identifier": 3, "started": "2025-01-01"}), "fhir-malformed"),
    ],
)
def test_whatever_fails_the_result_stands_and_says_why(
    site: Site, prepare: Callable[[Site], object], reason: str
) -> None:
    """The finding is as it was; the card says that no earlier CT was compared, and the reason, which names nobody."""
    prepare(site)
    found = site.run(site.study("2026-01-31"))
    assert found.compared.startswith("No earlier CT was compared: ")
    assert reason in found.compared
    assert "Doe" not in found.compared
    assert (len(found.findings), found.missing) == (1, ())
    assert found.findings[0].tracking_uid


def _breaks(site: Site, problem: Exception) -> None:
    site.study("2025-09-01")
    site.pathway.problem = problem


def test_nobody_waits_for_a_slow_pacs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result goes out without; while that look has not ended, no other begins."""
    asked, let_go = threading.Event(), threading.Event()

    def slow(*_: object) -> list[str]:
        asked.set()
        let_go.wait(60)
        return []

    monkeypatch.setattr(pacs, "priors", slow)
    site.settings = site.settings.model_copy(update={"pacs_url": "http://pacs"})
    site.patience = 0.01
    comparisons, study = site.comparisons, site.study("2026-01-31")
    comparison = comparisons.begin(site.pathway, study, PATIENT)
    assert asked.wait(60)
    found = comparison.of(site.pathway.find(study), MODELS, Deadline.after(60))
    assert found.compared == "No earlier CT was compared: none came in time."
    again = comparisons.begin(site.pathway, study, PATIENT).of(site.pathway.find(study), MODELS, Deadline.after(60))
    assert "still busy" in again.compared
    let_go.set()
    for thread in threading.enumerate():
        if thread.name == "earlier":
            thread.join()


def test_what_the_store_lacks_comes_from_the_pacs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetched once; what a process that died fetched in part is fetched again."""
    earlier = site.study("2025-09-01", told=False)
    files = {path: path.read_bytes() for path in site.store.instances("default", earlier.ref.study_uid)}
    site.store.erase("default", earlier.ref.study_uid)
    fetched: list[str] = []

    async def fetch(_settings: Settings, store: ImageStore, _reception: object, uid: str) -> tuple[int, int]:
        fetched.append(uid)
        for data in files.values():
            store.put("default", InstanceHeader.read(data), data)
        return len(files), 0

    monkeypatch.setattr(pacs, "priors", lambda *_: [earlier.ref.study_uid])
    monkeypatch.setattr(pacs, "fetch", fetch)
    site.settings = site.settings.model_copy(update={"pacs_url": "http://pacs"})
    study = site.study("2026-01-31")
    for _ in range(2):
        assert site.run(study).compared == "compared with 2025-09-01"
    assert fetched == [earlier.ref.study_uid]
    site.store.write_note("default", kept_with(earlier.ref.study_uid, FETCH), BEGUN)
    assert site.run(study).compared == "compared with 2025-09-01"
    assert len(fetched) == 2
    assert "came to be compared with newer ones" in site.run(earlier).compared, "one that came so asks for no more"


def test_the_same_thing_keeps_its_tracking_uid_over_three_studies(site: Site) -> None:
    """Also where the middle one is the only one that the last is compared with, and the order of findings differs."""
    first = site.tracked(site.study("2025-01-01"), 2, 5)
    assert len(set(first)) == 2
    assert site.tracked(site.study("2025-07-01"), 5, 2) == first[::-1]
    assert site.tracked(site.study("2026-01-01"), 2, 5) == first


def test_a_run_that_is_repeated_tracks_the_same(site: Site) -> None:
    """Whatever became known of earlier studies meanwhile: what was written into the PACS stays true."""
    earlier, study = site.study("2025-01-01", told=False), site.study("2026-01-01")
    alone = site.tracked(study, 4)
    site.recorded.append(
        {
            "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{earlier.ref.study_uid}"}],
            "started": "2025-01-01",
        }
    )
    assert site.run(study).compared.startswith("compared")
    assert site.tracked(study, 4) == alone


def test_an_earlier_study_that_is_computed_later_has_the_same_uids(site: Site) -> None:
    """What was matched in it was named there and then."""
    earlier, study = site.study("2025-01-01"), site.study("2026-01-01")
    later = site.tracked(study, 4)
    assert site.tracked(earlier, 4) == later


def test_who_drew_a_segment_says_what_it_is(site: Site) -> None:
    """Its own tracking UID stands before all others."""
    study = site.study("2026-01-01")
    found = site.pathway.found(study, 4, source=RegionSource("seg", "nodule", tracking_uid="1.2.77"))
    assert site.run(study, found).findings[0].tracking_uid == "1.2.77"


def test_what_was_noted_of_a_study_is_erased_with_it(site: Site) -> None:
    """The notes hold its UIDs."""
    study = site.study("2026-01-01")
    site.tracked(study, 4)
    assert site.store.notes("default", kept_with(study.ref.study_uid))
    site.store.erase("default", study.ref.study_uid)
    assert site.store.notes("default", kept_with(study.ref.study_uid)) == []
