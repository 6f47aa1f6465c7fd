"""Results as FHIR resources."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from auscult.domain import codes
from auscult.domain.codes import IBSI
from auscult.domain.finding import Measurement, MeasurementGroup, Result
from auscult.domain.ibsi_features import FEATURES
from auscult.domain.radiomics import described
from auscult.pathways.lung_nodule.growth import Change, Sizes
from auscult.platform.errors import DeadLetter
from auscult.publish.fhir.client import encoded
from auscult.publish.fhir.elements import AI_ASSERTED, NOT_VALIDATED, device_id
from auscult.publish.fhir.resources import NOTHING_AROUND, Surroundings, transaction
from fhir_samples import BROCK, MEASURES, SEGMENTATION, STUDY_UID, finding, result

R4 = {
    "Device": "identifier definition udiCarrier status statusReason distinctIdentifier manufacturer manufactureDate "
    "expirationDate lotNumber serialNumber deviceName modelNumber partNumber type specialization version property "
    "patient owner contact location url note safety parent",
    "Observation": "identifier basedOn partOf status category code subject focus encounter effectiveDateTime "
    "effectivePeriod issued performer valueQuantity valueCodeableConcept valueString dataAbsentReason interpretation "
    "note bodySite method specimen device referenceRange hasMember derivedFrom component",
    "RiskAssessment": "identifier basedOn parent status method code subject encounter occurrenceDateTime condition "
    "performer reasonCode reasonReference basis prediction mitigation note",
    "DiagnosticReport": "identifier basedOn status category code subject encounter effectiveDateTime "
    "effectivePeriod issued performer resultsInterpreter specimen result imagingStudy media conclusion "
    "conclusionCode presentedForm",
    "ImagingStudy": "identifier status modality subject encounter started basedOn referrer interpreter endpoint "
    "numberOfSeries numberOfInstances procedureReference procedureCode location reasonCode reasonReference note "
    "description series",
    "ServiceRequest": "identifier instantiatesCanonical instantiatesUri basedOn replaces requisition status intent "
    "category priority doNotPerform code orderDetail quantityQuantity subject encounter occurrenceDateTime asNeeded "
    "authoredOn requester performerType performer locationCode locationReference reasonCode reasonReference "
    "insurance supportingInfo specimen bodySite note patientInstruction relevantHistory",
    "Task": "identifier instantiatesCanonical instantiatesUri basedOn groupIdentifier partOf status statusReason "
    "businessStatus intent priority code description focus for encounter executionPeriod authoredOn lastModified "
    "requester performerType owner location reasonCode reasonReference insurance note relevantHistory restriction "
    "input output",
    "Provenance": "target occurredPeriod occurredDateTime recorded policy location reason activity agent entity "
    "signature",
}
"""The elements of R4 (4.0.1), from the resources' pages: R4B, whose classes are used, could have others."""


def sent(of: Result, around: Surroundings = NOTHING_AROUND) -> dict[str, Any]:
    """Return the transaction as the server reads it."""
    bundle: dict[str, Any] = json.loads(encoded(transaction(of, around)))
    return bundle


def resources(of: Result, around: Surroundings = NOTHING_AROUND) -> list[dict[str, Any]]:
    """Return the resources that `of` is written as."""
    return [entry["resource"] for entry in sent(of, around)["entry"]]


def only(of: Result, resource_type: str, **having: Any) -> dict[str, Any]:
    """Return the one resource of a type that has these elements."""
    (found,) = (
        resource
        for resource in resources(of)
        if resource["resourceType"] == resource_type and all(resource.get(k) == v for k, v in having.items())
    )
    return found


def coded(resource: dict[str, Any]) -> str:
    """Return the code of a resource, or its words where it has none."""
    return str(resource["code"].get("coding", [{"code": resource["code"]["text"]}])[0]["code"])


def observation(of: Result, code: str) -> dict[str, Any]:
    """Return the one Observation with this code."""
    (found,) = (r for r in resources(of) if r["resourceType"] == "Observation" and coded(r) == code)
    return found


def texts(value: Any) -> Iterator[str]:
    """Yield every string in a JSON value."""
    if isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


def test_same_result_gives_the_same_bytes() -> None:
    """A resend is the same object, to the byte."""
    first = transaction(result(finding("nodule-1"), finding("nodule-2")))
    assert transaction(result(finding("nodule-1"), finding("nodule-2"))) == first


def test_resources_are_valid_and_have_only_elements_of_r4() -> None:
    """Each resource is valid on its own, with elements that FHIR 4.0.1 has."""
    common = {"resourceType", "id", "meta"}
    everything = Surroundings(write_imaging_study=True, replaced=("DiagnosticReport/1",), drafts=True, tasks=True)
    for resource in resources(result(finding("nodule-1"), modality="CT"), everything):
        get_fhir_model_class(resource["resourceType"]).model_validate(resource)
        assert resource.keys() <= common | set(R4[resource["resourceType"]].split())


def test_every_entry_is_put_under_its_own_id() -> None:
    """Ids are the client's and distinct, so that a second write meets the first."""
    entries = sent(result(finding("nodule-1"), finding("nodule-2")))["entry"]
    places = [entry["request"]["url"] for entry in entries]
    assert len(set(places)) == len(places)
    for entry in entries:
        resource = entry["resource"]
        assert entry["request"] == {"method": "PUT", "url": f"{resource['resourceType']}/{resource['id']}"}
        assert entry["fullUrl"] == f"urn:uuid:{resource['id']}"


def test_references_lead_to_the_transaction_or_the_patient() -> None:
    """Every literal reference is to the patient or to something that is written with it."""
    written = resources(result(finding("nodule-1")))
    places = {f"{resource['resourceType']}/{resource['id']}" for resource in written} | {"Patient/p1"}

    def literals(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if "reference" in value:
                yield value["reference"]
            for item in value.values():
                yield from literals(item)
        elif isinstance(value, list):
            for item in value:
                yield from literals(item)

    assert set(literals(written)) <= places


def test_what_is_said_is_marked_as_said_by_an_algorithm() -> None:
    """Everything but the Devices bears AIAST, and the Provenance names each model and the study."""
    written = resources(result(finding("nodule-1")))
    assert all(AI_ASSERTED in r["meta"]["security"] for r in written if r["resourceType"] != "Device")
    provenance = written[-1]
    agents = {agent["who"]["reference"] for agent in provenance["agent"]}
    assert agents == {f"Device/{r['id']}" for r in written if r["resourceType"] == "Device"}
    said = {f"{r['resourceType']}/{r['id']}" for r in written if r["resourceType"] not in {"Device", "Provenance"}}
    assert {target["reference"] for target in provenance["target"]} == said
    assert provenance["entity"][0]["what"]["identifier"] == {
        "system": "urn:dicom:uid",
        "value": f"urn:oid:{STUDY_UID}",
    }
    assert provenance["entity"][1]["what"]["identifier"]["value"] == "ab" * 32
    assert "https://doi.org/10.1056/NEJMoa1214726" in provenance["policy"]


def test_size_has_components_with_ucum_units_and_its_interval_in_words() -> None:
    """The size is one Observation, its two diameters are components."""
    size = observation(result(finding("nodule-1")), "21889-1")
    assert [(c["code"]["coding"][0]["code"], c["valueQuantity"]) for c in size["component"]] == [
        ("33728-7", {"value": 8.42312, "unit": "mm", "system": "http://unitsofmeasure.org", "code": "mm"}),
        ("33729-5", {"value": 6.1, "unit": "mm", "system": "http://unitsofmeasure.org", "code": "mm"}),
    ]
    assert "between 8 and 9 mm" in size["note"][0]["text"]
    assert size["subject"] == {"reference": "Patient/p1"}
    assert size["effectiveDateTime"] == "2026-03-01T09:58:00+01:00"
    assert size["bodySite"]["text"] == "right lung, upper third"


def test_single_value_is_the_observations_own() -> None:
    """The volume has no components."""
    volume = observation(result(finding("nodule-1")), "118565006")
    assert volume["valueQuantity"]["value"] == 301.5
    assert "component" not in volume


def test_value_that_is_no_number_is_said_to_be_absent() -> None:
    """JSON has no NaN; the reason for its absence is coded."""
    groups = (
        MeasurementGroup("volume", codes.VOLUME, MEASURES, (Measurement("volume", codes.VOLUME, math.nan, "mm3"),)),
    )
    volume = observation(result(finding("nodule-1", groups=groups)), "118565006")
    assert volume["dataAbsentReason"]["coding"][0]["code"] == "not-a-number"


def test_features_are_components_with_ibsi_codes() -> None:
    """Each radiomics feature keeps its code, also where the whole has none in any standard."""
    features = observation(result(finding("nodule-1")), "Radiomics features (IBSI)")
    assert len(features["component"]) == 30
    assert features["component"][3]["code"]["coding"][0] == {
        "system": "https://theibsi.github.io",
        "code": "C003",
        "display": "Feature 3",
    }


def test_risk_says_what_it_rests_on() -> None:
    """The RiskAssessment has the probability in [0, 1], the percentage in words, contributions, range and advice."""
    risk = only(result(finding("nodule-1")), "RiskAssessment")
    (prediction,) = risk["prediction"]
    assert prediction["probabilityDecimal"] == 0.0412
    assert prediction["outcome"]["coding"][0]["code"] == "93880001"
    for said in ("4.12 %", "between 4.12 % and 9.12 %", "age (69 years) +0.200", "assumed absent: emphysema"):
        assert said in prediction["rationale"]
    assert risk["mitigation"] == "CT at 6-12 months."
    assert risk["method"]["text"] == "brock_full 1"
    assert len(risk["basis"]) == 4


def test_probability_that_is_no_number_is_left_out() -> None:
    """A model that fails numerically does not make the whole result unwritable."""
    broken = replace(finding("nodule-1").risks[0], probability=math.nan)
    (prediction,) = only(result(finding("nodule-1", risks=(broken,))), "RiskAssessment")["prediction"]
    assert "probabilityDecimal" not in prediction
    assert prediction["rationale"] == "The model gave no number."


def test_advice_is_kept_where_there_is_no_risk() -> None:
    """A recommendation is an Observation of its own, so it does not depend on a RiskAssessment."""
    advice = observation(result(finding("nodule-1", risks=())), "121075")
    assert advice["valueString"] == "CT at 6-12 months."
    assert "solid-6-8" in advice["method"]["text"]


def test_nothing_of_a_finding_is_lost() -> None:
    """Location, appearance, outline, notes and evidence are in the record, in words."""
    said = " ".join(texts(resources(result(finding("nodule-1")))))
    for words in (
        "solid, right lung, upper third",
        "Outlined by the model",
        "the solid part measures 3.0 mm",
        "1.2.3.4",
    ):
        assert words in said
    assert "MacMahon et al., Radiology 2017;284:228" in said


def test_device_of_a_model_is_the_same_in_every_study() -> None:
    """A model has one Device, which says that it was not validated here."""
    other = result(finding("nodule-1"), study=replace(result().study, study_uid="1.2.3"))
    for of in (result(finding("nodule-1")), other):
        device = only(of, "Device", id=device_id(BROCK))
        assert device["note"][0]["text"] == NOT_VALIDATED
        assert device["version"] == [{"value": "1"}]


def test_validated_model_is_not_called_a_reference_model() -> None:
    """Once the site has validated a model, the warning is gone."""
    validated = replace(finding("nodule-1").risks[0], model=replace(BROCK, clinical_use=True))
    of = result(finding("nodule-1", risks=(validated,)))
    assert all(note["text"] != NOT_VALIDATED for note in only(of, "Device", id=device_id(BROCK))["note"])


def test_shadow_model_is_not_written() -> None:
    """What a shadow model says is shown to nobody, so it does not go into the record."""
    shadow = replace(finding("nodule-1").risks[0], model=replace(BROCK, stage="shadow"))
    written = resources(result(finding("nodule-1", risks=(shadow,))))
    assert {resource["resourceType"] for resource in written} == {
        "Device",
        "Observation",
        "DiagnosticReport",
        "Provenance",
    }
    assert device_id(BROCK) not in {resource["id"] for resource in written}


def test_report_has_the_conclusion_and_all_observations() -> None:
    """Record viewers list the DiagnosticReport: its conclusion holds the summary and the advice."""
    of = result(finding("nodule-1"), status="degraded", reasons=("no risk",))
    report = only(of, "DiagnosticReport")
    assert report["conclusion"] == "Lung nodule 7.3 mm\nnodule-1: CT at 6-12 months.\nIncomplete: no risk"
    assert report["status"] == "preliminary"
    observed = {f"Observation/{r['id']}" for r in resources(of) if r["resourceType"] == "Observation"}
    assert {said["reference"] for said in report["result"]} == observed
    assert "imagingStudy" not in report


def test_report_that_takes_anothers_place_is_amended_and_bears_the_same_line() -> None:
    """All versions of a result have the identifier of their line in common; the Provenance names what is revised."""
    newer = replace(result().study, digest="cd" * 32)
    first, second = (
        resources(result(finding("nodule-1"), study=study), Surroundings(replaced=replaced))
        for study, replaced in ((result().study, ()), (newer, ("DiagnosticReport/1",)))
    )
    reports = [next(r for r in written if r["resourceType"] == "DiagnosticReport") for written in (first, second)]
    assert [report["status"] for report in reports] == ["final", "amended"]
    assert reports[0]["identifier"][1] == reports[1]["identifier"][1]
    assert reports[0]["id"] != reports[1]["id"]
    assert second[-1]["entity"][-1] == {"role": "revision", "what": {"reference": "DiagnosticReport/1"}}


@pytest.mark.parametrize("found", ["", "ImagingStudy/theirs"])
def test_study_of_the_record_is_referred_to_or_written(found: str) -> None:
    """Observations and report refer to the record's ImagingStudy; where it has none, to the one that is written."""
    written = resources(
        result(finding("nodule-1"), modality="CT"), Surroundings(imaging_study=found, write_imaging_study=True)
    )
    ours = [f"ImagingStudy/{r['id']}" for r in written if r["resourceType"] == "ImagingStudy"]
    assert len(ours) == (0 if found else 1)
    place = found or ours[0]
    for resource in written:
        if resource["resourceType"] == "Observation":
            assert resource["derivedFrom"][-1]["reference"] == place
            assert resource["derivedFrom"][-1]["identifier"]["value"] == f"urn:oid:{STUDY_UID}"
        if resource["resourceType"] == "DiagnosticReport":
            assert resource["imagingStudy"][0]["reference"] == place


def test_finding_says_on_which_part_of_which_image_it_is_seen() -> None:
    """R4 has no ImagingSelection: an extension on the study's reference has its elements, in DICOM's coordinates."""
    outline = replace(finding("nodule-1").outline, polygons=(((1.0, 2.0), (3.0, 2.0), (3.0, 5.5)),))
    seen = observation(result(finding("nodule-1", outline=outline)), "27925004")
    (selection,) = seen["derivedFrom"][0]["extension"]
    series, instance, region = selection["extension"]
    assert series == {"url": "seriesUid", "valueOid": "urn:oid:1.2.3"}
    assert instance == {"url": "instanceUid", "valueOid": "urn:oid:1.2.3.4"}
    assert region["extension"][1] == {"url": "coordinate", "valueString": "1.5 2.5 3.5 2.5 3.5 6 1.5 2.5"}


def test_advice_becomes_a_proposal_only_where_it_is_asked_for() -> None:
    """A ServiceRequest is a draft proposal, asked for by the pathway; by default there is none."""
    assert all(r["resourceType"] != "ServiceRequest" for r in resources(result(finding("nodule-1"))))
    written = resources(result(finding("nodule-1")), Surroundings(drafts=True))
    (draft,) = (r for r in written if r["resourceType"] == "ServiceRequest")
    assert (draft["status"], draft["intent"]) == ("draft", "proposal")
    assert draft["code"]["text"] == "CT at 6-12 months."
    assert draft["requester"]["reference"] in {f"Device/{r['id']}" for r in written}


def test_advice_becomes_a_task_only_where_it_is_asked_for() -> None:
    """To decide on the proposal where there is one, else on what is advised; by default there is none."""
    assert all(r["resourceType"] != "Task" for r in resources(result(finding("nodule-1")), Surroundings(drafts=True)))
    for drafts, focused in ((True, "ServiceRequest"), (False, "Observation")):
        written = resources(result(finding("nodule-1")), Surroundings(drafts=drafts, tasks=True))
        (task,) = (r for r in written if r["resourceType"] == "Task")
        assert (task["status"], task["intent"]) == ("requested", "proposal")
        assert (task["description"], task["for"]) == ("CT at 6-12 months.", {"reference": "Patient/p1"})
        kind, _, identity = task["focus"]["reference"].partition("/")
        assert kind == focused
        assert identity in {r["id"] for r in written}


def test_result_without_findings_is_one_observation() -> None:
    """Where nothing was found, the record says so in the card's words, and which model looked."""
    of = result(card=replace(result().card, summary="Chest CT: no lung nodule found", models=(SEGMENTATION,)))
    nothing = only(of, "Observation")
    assert only(of, "Device", id=device_id(SEGMENTATION))
    assert nothing["valueString"] == "Chest CT: no lung nodule found"
    assert nothing["status"] == "final"


def test_degraded_result_is_preliminary_and_says_why() -> None:
    """A run that could say nothing has no value, a coded reason and the reasons in words."""
    degraded = only(result(status="degraded", reasons=("the model server did not answer",)), "Observation")
    assert degraded["status"] == "preliminary"
    assert "valueString" not in degraded
    assert degraded["dataAbsentReason"]["coding"][0]["code"] == "error"
    assert degraded["note"] == [{"text": "Incomplete: the model server did not answer"}]


def test_findings_with_one_label_are_refused() -> None:
    """Two outputs under one id would overwrite each other."""
    with pytest.raises(DeadLetter, match="result-ambiguous"):
        transaction(result(finding("nodule-1"), finding("nodule-1")))


def test_what_fhir_cannot_hold_is_refused_without_its_value() -> None:
    """The error names the place, not what stands there, which may be the patient's."""
    with pytest.raises(DeadLetter, match="result-invalid") as caught:
        transaction(result(patient="Patient/p1", acquired="Quixote's birthday"))
    assert "effectiveDateTime" in str(caught.value)
    assert "Quixote" not in str(caught.value)


def test_radiomics_say_how_they_were_measured() -> None:
    """A component per feature, also of one without a value; the method names aggregation and settings."""
    runs = [feature for feature in FEATURES if feature.name.startswith("rlm_")]
    values = {feature.name: 0.5 for feature in runs} | {"rlm_sre_3D_comb": math.nan}
    groups = described(runs, values, model=lambda _: MEASURES, settings='{"bin_width":25.0}')
    whole = only(result(finding("nodule-1", groups=groups[-1:])), "Observation", method=_method_of_runs())
    assert coded(whole) == "128776"
    assert len(whole["component"]) == 16
    (empty,) = [component for component in whole["component"] if "dataAbsentReason" in component]
    assert empty["code"]["coding"][0] == {"system": IBSI, "code": "22OV", "display": "Short runs emphasis"}


def _method_of_runs() -> dict[str, Any]:
    return {
        "coding": [{"system": IBSI, "code": "IAZD", "display": "In the volume, directions merged"}],
        "text": 'measure 1; In the volume, directions merged; settings {"bin_width":25.0}',
    }


def test_a_change_names_the_study_that_it_was_compared_with() -> None:
    """It is derived from both; the units are UCUM's."""
    group = Change(Sizes(5, 5, 100), Sizes(6, 6, 200), date(2026, 1, 1), 59, "1.2.9").group()
    resources = [entry["resource"] for entry in transaction(result(finding("nodule-1", groups=(group,))))["entry"]]
    (told,) = [each for each in resources if (each.get("code") or {}).get("text") == group.code.display]
    now, earlier = told["derivedFrom"]
    assert now["identifier"]["value"] != earlier["identifier"]["value"]
    assert earlier["identifier"] == {"system": "urn:dicom:uid", "value": "urn:oid:1.2.9"}
    units = {each["code"]["coding"][0]["code"]: each["valueQuantity"]["code"] for each in told["component"]}
    assert units["volume-doubling-time"] == "d"
    assert units["volume-change"] == "%"
