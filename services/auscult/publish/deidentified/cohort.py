"""Writes a cohort: the studies that results are about, and what the record holds of their patients."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom import dcmread

from auscult.domain.finding import Result
from auscult.imaging.part10 import understood
from auscult.imaging.store import ImageStore
from auscult.platform.errors import Refused, RefuseToStart
from auscult.publish.deidentified import dicom, fhir
from auscult.publish.deidentified.pseudonyms import Pseudonyms
from auscult.publish.fhir.client import FhirClient, reference_id

SEARCHED = ("ImagingStudy", "Observation", "RiskAssessment", "Condition", "Procedure", "DiagnosticReport")
"""Resource types of the patient compartment that are looked for."""


@dataclass(frozen=True, slots=True)
class Exporter:
    """Writes into `folder`, which is new or empty: `fhir/<Type>.ndjson`, `dicom/<patient>/…` and `manifest.json`."""

    folder: Path
    key: bytes
    record: FhirClient
    images: ImageStore | None = None
    """None: the record alone."""
    keep_labels: bool = False

    def export(self, results: Iterable[Result]) -> Mapping[str, object]:
        """Write what `results` are about; return the manifest. It says what was left out and why, of nobody."""
        if self.folder.exists() and any(self.folder.iterdir()):
            raise RefuseToStart("folder-in-use", "choose a folder that is new or empty: an export is not mixed")
        (self.folder / "fhir").mkdir(parents=True, exist_ok=True)
        counted: Counter[str] = Counter()
        refused: Counter[str] = Counter()
        patients: dict[tuple[str, str], set[str]] = {}
        for result in results:
            patients.setdefault((result.study.tenant, result.patient), set()).add(result.study.study_uid)
        for (tenant, patient), studies in patients.items():
            names = Pseudonyms(self.key, f"{tenant}|{patient}")
            self._record(patient, names, counted)
            for study in sorted(studies) if self.images else ():
                self._study(tenant, study, names, counted, refused)
        manifest = {
            "profile": "PS3.15 Annex E, modified dates, patient characteristics; FHIR by allow-list",
            "patients": len(patients),
            "written": dict(sorted(counted.items())),
            "refused": dict(sorted(refused.items())),
        }
        (self.folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        return manifest

    def _record(self, patient: str, names: Pseudonyms, counted: Counter[str]) -> None:
        found = [self.record.read("Patient", reference_id(patient, "Patient"))]
        for kind in SEARCHED:
            found += self.record.search(kind, {"patient": patient})
        devices = {each["device"]["reference"] for each in found if each and "reference" in each.get("device", {})}
        for device in sorted(each for each in devices if str(each).startswith("Device/")):
            found.append(self.record.read("Device", reference_id(device, "Device")))
        for resource in found:
            left = fhir.deidentify(resource, names) if resource else None
            if left:
                kind = left["resourceType"]
                with (self.folder / "fhir" / f"{kind}.ndjson").open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(left) + "\n")
                counted[kind] += 1

    def _study(
        self, tenant: str, study: str, names: Pseudonyms, counted: Counter[str], refused: Counter[str]
    ) -> None:
        for path in self.images.instances(tenant, study) if self.images else ():
            try:
                with understood():
                    original = dcmread(BytesIO(path.read_bytes()))
                    left = dicom.deidentify(original, names, keep_labels=self.keep_labels)
            except Refused as problem:
                refused[problem.reason] += 1
                continue
            folder = self.folder / "dicom" / names.patient / left.StudyInstanceUID / left.SeriesInstanceUID
            folder.mkdir(parents=True, exist_ok=True)
            left.save_as(folder / f"{left.SOPInstanceUID}.dcm", enforce_file_format=True)
            counted["dicom"] += 1
