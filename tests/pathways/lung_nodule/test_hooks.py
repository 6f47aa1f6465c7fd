"""At orders and problems: the follow-up that is advised, and the risk of a nodule that the record tells of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Delivery
from auscult.bus.topics import FINDINGS
from auscult.cds_hooks.store import CardStore
from auscult.cds_hooks.trust.gate import Caller
from auscult.domain.codes import DIAMETER
from auscult.domain.deadline import Deadline
from auscult.domain.finding import Measurement, MeasurementGroup, ModelReference, Recommendation
from auscult.pathways.lung_nodule import PATHWAY, fleischner
from auscult.pathways.lung_nodule.hooks import services
from auscult.pathways.lung_nodule.recorded import recorded_nodule
from auscult.pathways.pathway import Found
from auscult.pathways.services import Tools, offered
from auscult.platform.errors import TellClinician
from ehr import PATIENT, Ehr, bundle, request
from fhir_samples import MEASURES, finding, result
from local_models import LocalModels

FOLLOW_UP, RISK = "auscult-lung-nodule-follow-up", "auscult-lung-nodule-risk"
CT = {
    "resourceType": "ServiceRequest",
    "id": "ct1",
    "status": "draft",
    "intent": "order",
    "code": {"coding": [{"system": "http://loinc.org", "code": "24627-2"}]},
    "subject": {"reference": "Patient/42"},
    "occurrenceDateTime": "2026-02-01",
}
NODULE = {
    "resourceType": "Condition",
    "code": {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "R91.1"}]},
}


class Hurried(LocalModels):
    """The reference models, which know a deadline for their references, too."""

    def reference(self, model: str, deadline: Deadline | None = None) -> ModelReference:
        """Return who answers."""
        assert deadline is not None
        return super().reference(model)


class Hung:
    """Models that do not answer in time."""

    def infer(self, model: str, _inputs: Any, *, deadline: Deadline) -> Any:
        """Wait, and tell."""
        assert not deadline.expired
        raise TellClinician("deadline-exceeded", f"model {model} did not answer in time")

    def reference(self, model: str, deadline: Deadline | None = None) -> ModelReference:
        """Never asked."""
        raise NotImplementedError(model, deadline)


@pytest.fixture
def store() -> CardStore:
    """Return a store with one nodule of patient 42, for which a CT at 6-12 months is advised."""
    rule = "CT_6_12M_THEN_18_24M"
    mean = MeasurementGroup("mean-diameter", DIAMETER, MEASURES, (Measurement("mean-diameter", DIAMETER, 7.3, "mm"),))
    advice = Recommendation(fleischner.GUIDELINE, rule, fleischner.TEXTS[rule])
    nodule = finding("nodule-1", groups=(*finding("nodule-1").groups, mean), recommendations=(advice,))
    found = result(nodule, card=PATHWAY.card(Found((nodule,))), patient="Patient/42", acquired="2026-01-31T10:00:00Z")
    cards = CardStore("https://a")
    cards._governed = True
    cards._put(found, Delivery(FINDINGS.name, 0, 0, "k", CloudEvent.of(events.RESULT, "/t", found)))
    return cards


def ask(service: str, cards: CardStore, models: Any, *calls: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the cards that `service` answers to the first of `calls`, and hold that all are answered."""
    # A budget that no busy machine exceeds: these tests are about what is said.
    patient = [replace(each, budget=60) for each in services(Tools(cards, models, "https://a"))]
    ehr = Ehr(cards, *patient)
    answers = ehr.ask(service, *calls)
    assert [answer.status_code for answer in answers] == [200] * len(calls), answers[0].text
    cards_told: list[dict[str, Any]] = answers[0].json()["cards"]
    return cards_told


def orders(*resources: dict[str, Any]) -> dict[str, Any]:
    """Return a context with draft orders."""
    return {"draftOrders": bundle(*resources)}


def test_pathways_offer_their_services() -> None:
    """They are found by their entry point."""
    assert {each.id for each in offered(Tools(CardStore("https://a"), Hung(), "https://a"))} == {FOLLOW_UP, RISK}


def test_a_chest_ct_that_is_ordered_is_offered_the_advised_dates(store: CardStore) -> None:
    """The suggestion updates the whole order, with another occurrence and nothing else changed."""
    select = request("order-select", orders(CT) | {"selections": ["ServiceRequest/ct1"]})
    for call in (select, request("order-sign", orders(CT))):
        [card] = ask(FOLLOW_UP, store, Hung(), call)
        [action] = card["suggestions"][0]["actions"]
        assert action["type"] == "update"
        kept = {name: value for name, value in CT.items() if name != "occurrenceDateTime"}
        assert action["resource"] == kept | {"occurrencePeriod": {"start": "2026-07-31", "end": "2027-01-31"}}
        assert [each["code"] for each in card["overrideReasons"]] == ["arranged", "declined", "nonodule", "otherwise"]


SELECTED = orders(CT) | {"selections": ["ServiceRequest/ct1"]}


def test_a_client_that_applies_system_actions_gets_the_order_with_a_note(store: CardStore) -> None:
    """At signing alone, once, on the whole order; the suggestion keeps the note; others get no system actions."""
    caller = Caller("north", "default", (), system_actions=True)
    offers = services(Tools(store, Hung(), "https://a"))
    follow_up = [replace(each, budget=60) for each in offers if each.id == FOLLOW_UP]
    sign, select = request("order-sign", orders(CT, CT | {"id": "ct2"})), request("order-select", SELECTED)
    signed, selected = Ehr(store, *follow_up, caller=caller).ask(FOLLOW_UP, sign, select)
    first, second = signed.json()["systemActions"]
    assert (first["type"], second["resource"]["id"]) == ("update", "ct2")
    [note] = first["resource"].pop("note")
    assert first["resource"] == CT
    assert note["text"].startswith("Lung nodule 7.3 mm")
    assert "Advised: CT chest in 6-12 months." in note["text"]
    assert note["text"].endswith("not for clinical use until validated at this site.")
    [card] = signed.json()["cards"]
    assert card["suggestions"][0]["actions"][0]["resource"]["note"] == [note]
    assert "systemActions" not in selected.json()
    [again] = Ehr(store, *follow_up, caller=caller).ask(
        FOLLOW_UP, request("order-sign", orders(CT | {"note": [note]}))
    )
    assert "systemActions" not in again.json()
    [other] = Ehr(store, *follow_up).ask(FOLLOW_UP, request("order-sign", orders(CT)))
    assert "systemActions" not in other.json()


OTHER = CT | {"code": {"text": "Something else"}}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (request("order-sign", prefetch={"orders": None}), True),
        (request("order-sign"), True),
        (request("order-sign", prefetch={"orders": bundle(OTHER)}), True),
        (request("order-sign", prefetch={"orders": bundle(CT)}), False),
        (request("order-select", orders(CT) | {"selections": ["MedicationRequest/1"]}), False),
        (request("order-select", orders(OTHER) | {"selections": ["ServiceRequest/ct1"]}), False),
        (request("order-sign", {"patientId": "43"}), False),
    ],
)
def test_an_order_that_is_missing_is_suggested_once(store: CardStore, call: dict[str, Any], told: bool) -> None:
    """At signing, unless one is active in the record; while selecting, only for chest CTs."""
    cards = ask(FOLLOW_UP, store, Hung(), call)
    assert [card["suggestions"][0]["actions"][0]["type"] for card in cards] == (["create"] if told else [])


def test_another_patient_s_order_is_not_changed(store: CardStore) -> None:
    """A draft whose subject is somebody else is no reason to suggest anything for it."""
    foreign = CT | {"subject": {"reference": "Patient/4242"}}
    [card] = ask(FOLLOW_UP, store, Hung(), request("order-sign", orders(foreign)))
    assert card["suggestions"][0]["actions"][0]["type"] == "create"


@pytest.mark.parametrize(
    ("rule", "labels", "recommended"),
    [
        ("NONE", [], []),
        ("OPTIONAL_12M", ["Optional: CT chest in 12 months"], [False]),
        ("CONSIDER_CT_3M_PETCT_OR_TISSUE", ["Consider: CT chest in 3 months"], [False]),
        ("CT_3_6M_THEN_18_24M", ["CT chest in 3-6 months"], [True]),
        ("NONE_OR_OPTIONAL_12M", ["Optional: CT chest in 12 months"], [False]),
        ("CT_6_12M_THEN_CONSIDER_18_24M_OR_CT_6_12M_THEN_18_24M", ["CT chest in 6-12 months"], [False]),
        ("NOT_APPLICABLE", [], []),
    ],
)
def test_only_what_the_guideline_says_is_proposed(rule: str, labels: list[str], recommended: list[bool]) -> None:
    """One proposal for each first CT; recommended where the guideline advises it outright for the known risk."""
    proposed = fleischner.proposals(Recommendation(fleischner.GUIDELINE, rule, "x"))
    assert [each.label for each in proposed] == labels
    assert [each.recommended for each in proposed] == recommended


def size(
    longest: float, across: float, day: str = "2026-01-31", site: str = "39607008", **more: Any
) -> dict[str, Any]:
    """Return an Observation of a nodule's size."""
    values = (("33728-7", longest), ("33729-5", across))
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "21889-1"}]},
        "bodySite": {"coding": [{"system": "http://snomed.info/sct", "code": site}]},
        "effectiveDateTime": f"{day}T10:00:00Z",
        "component": [
            {
                "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
                "valueQuantity": {"value": value, "code": "mm"},
            }
            for code, value in values
        ],
    } | more


def test_the_largest_nodule_of_the_newest_day_counts() -> None:
    """Of the lung alone; what was entered in error does not count, nor does a size that is half recorded."""
    half = size(50, 50)
    half["component"].pop()
    sizes = [size(9, 7), size(6, 4), size(30, 20, "2025-01-01"), size(40, 40, site="76752008"), half]
    found = recorded_nodule([*sizes, size(50, 50, status="entered-in-error")])
    assert found is not None
    assert (found.day, found.diameter, found.count) == ("2026-01-31", 8.0, 2)
    assert recorded_nodule([]) is None


@pytest.fixture
def prefetched() -> dict[str, Any]:
    """Return the data of the risk service."""
    return {"patient": PATIENT, "sizes": bundle(size(9, 7)), "conditions": None, "relatives": None, "smoking": None}


PROBLEM = {"conditions": bundle(NODULE)}


def test_the_risk_of_a_recorded_nodule_is_computed_for_the_call(
    prefetched: dict[str, Any], models: LocalModels
) -> None:
    """The model is asked within the budget; the card tells the range over what is not known, and its evidence."""
    hurried = Hurried(models.root)
    by_reason = orders(CT | {"code": {"text": "PET"}, "reasonCode": [NODULE["code"]]})
    problem = request("problem-list-item-create", PROBLEM, prefetch=prefetched)
    for call in (problem, request("order-sign", by_reason, prefetch=prefetched)):
        [card] = ask(RISK, _known(), hurried, call)
        assert card["summary"].startswith("Lung nodule 8.0 mm recorded: malignancy risk ")
        assert "part-solid" in card["detail"]
        assert "not for clinical use" in card["detail"]
        assert card["links"][0]["url"].startswith("https://a/models/brock_full")


def _known() -> CardStore:
    """Return an empty store that knows that no model is switched off."""
    cards = CardStore("https://a")
    cards._governed = True
    return cards


def test_a_model_that_does_not_answer_is_told(prefetched: dict[str, Any]) -> None:
    """The card says what is missing."""
    [card] = ask(RISK, _known(), Hung(), request("problem-list-item-create", PROBLEM, prefetch=prefetched))
    assert "deadline-exceeded" in card["detail"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patient": PATIENT | {"birthDate": "1960"}}, "birth date"),
        ({"sizes": bundle(size(40, 36))}, "up to 30 mm"),
    ],
)
def test_a_nodule_without_a_risk_is_told(prefetched: dict[str, Any], changes: dict[str, Any], said: str) -> None:
    """Why there is none is on the card."""
    call = request("problem-list-item-create", PROBLEM, prefetch=prefetched | changes)
    [card] = ask(RISK, _known(), Hung(), call)
    assert said in card["detail"]


@pytest.mark.parametrize("context", [{"conditions": bundle()}, {"conditions": bundle({"resourceType": "Condition"})}])
def test_other_problems_are_no_reason_to_speak(context: dict[str, Any]) -> None:
    """No data is read for them, and no card shown."""
    assert ask(RISK, _known(), Hung(), request("problem-list-item-create", context)) == []


def test_results_of_the_pathway_are_shown_in_place_of_a_second_risk(store: CardStore) -> None:
    """What was measured in the images is known better."""
    [card] = ask(RISK, store, Hung(), request("problem-list-item-create", PROBLEM))
    assert card["summary"].startswith("Lung nodule 7.3 mm")
