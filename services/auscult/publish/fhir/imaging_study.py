"""The study in the record: found there, or written by us where the record has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from auscult.domain.finding import Outline, Result
from auscult.platform.errors import Quarantine
from auscult.publish.fhir.elements import SELECTION, TENANT, Json, derived_id, study_identifier


def imaging_study(result: Result) -> Json:
    """Return the ImagingStudy of a result: what is known of it here, so no counts of the whole study.

    It is the same for all pathways and versions of the study, so that whoever comes first writes it.
    """
    identity = derived_id("imaging-study", result.study.tenant, result.study.study_uid)
    modality = _modality(result.modality) if result.modality else {}
    series = sorted({finding.outline.series_uid for finding in result.findings})
    return {
        "resourceType": "ImagingStudy",
        "id": identity,
        "meta": {"tag": [{"system": TENANT, "code": result.study.tenant}]},
        "identifier": [study_identifier(result)],
        "status": "available",
        **({"modality": [modality]} if modality else {}),
        "subject": {"reference": result.patient},
        **({"started": result.acquired} if result.acquired else {}),
        **({"series": [{"uid": uid, "modality": modality} for uid in series]} if modality and series else {}),
    }


def selection(outline: Outline) -> Json:
    """Return which part of which image a reference to its study means: R5's ImagingSelection, which R4 has not.

    The parts have the names of R5's elements. `coordinate`: x and y of each corner in turn, in pixels with (0, 0)
    the upper left corner of the first pixel, as in DICOM's SCOORD (PS3.3, C.18.6.1.2).
    """
    parts: list[Json] = [
        {"url": "seriesUid", "valueOid": f"urn:oid:{outline.series_uid}"},
        {"url": "instanceUid", "valueOid": f"urn:oid:{outline.sop_instance_uid}"},
    ]
    for polygon in outline.polygons:
        corners = [*polygon, polygon[0]]
        drawn = " ".join(f"{x + 0.5:g} {y + 0.5:g}" for x, y in corners)
        parts.append(
            {
                "url": "imageRegion2D",
                "extension": [
                    {"url": "regionType", "valueCode": "polyline"},
                    {"url": "coordinate", "valueString": drawn},
                ],
            }
        )
    return {"url": SELECTION, "extension": parts}


def of_patient(studies: Sequence[Mapping[str, object]], patient: str, merged: Sequence[str] = ()) -> str:
    """Return the place of the record's own ImagingStudy, `Type/id`; empty where it has none.

    `merged`: references to Patients that `patient` replaces. Quarantine (`study-other-patient`) where the record
    says that the study is another patient's.
    """
    places = []
    for study in studies:
        subject = study.get("subject")
        said = str(subject.get("reference", "")) if isinstance(subject, dict) else ""
        if said and "/".join(said.split("/_history/")[0].split("/")[-2:]) not in {patient, *merged}:
            raise Quarantine(
                "study-other-patient",
                "the record has this study as another patient's; find out whose it is, correct one side, replay",
            )
        if isinstance(study.get("id"), str):
            places.append(f"ImagingStudy/{study['id']}")
    return min(places, default="")


def _modality(code: str) -> Json:
    return {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": code}
