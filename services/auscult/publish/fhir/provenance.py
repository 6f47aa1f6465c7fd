"""Who said what from what, and why something that was said does not hold any more.

Where the Provenance of a result is, all that it speaks of is: it is written in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence

from auscult.domain.finding import ModelReference, Result
from auscult.publish.fhir.answers import listed, within
from auscult.publish.fhir.elements import (
    HL7,
    RESULT_STATUS,
    SOP_DIGEST,
    STATEMENTS,
    Json,
    derived_id,
    device_id,
    place,
    reference,
    started,
)

ASSEMBLER, PERFORMER = "assembler", "performer"


def of_result(
    result: Result,
    identity: str,
    *,
    stated: Sequence[Json],
    models: Sequence[ModelReference],
    imaged: Json,
    replaced: Sequence[str] = (),
) -> Json:
    """Return the Provenance of all that is `stated`.

    `models`: the pathway, which put it together, first. `replaced`: the reports whose place this result takes.
    """
    evidence = sorted({m.evidence for m in models if m.evidence.startswith(("http://", "https://"))})
    digest = {"identifier": {"system": SOP_DIGEST, "value": result.study.digest}}
    return {
        **started(result, "Provenance", identity),
        "target": [{"reference": place(resource)} for resource in stated],
        "recorded": result.recorded,
        **({"policy": evidence} if evidence else {}),
        "activity": {
            "coding": [
                {"system": f"{HL7}/v3-DataOperation", "code": "CREATE", "display": "create"},
                {"system": RESULT_STATUS, "code": result.status},
                {"system": STATEMENTS, "code": derived_id("statements", *sorted(map(place, stated)))},
            ]
        },
        "agent": [_agent(ASSEMBLER if number == 0 else PERFORMER, model) for number, model in enumerate(models)],
        "entity": [
            {"role": "source", "what": imaged},
            {"role": "source", "what": {**digest, "display": "SHA-256 of the study's sorted SOP Instance UIDs"}},
            *({"role": "revision", "what": {"reference": report}} for report in replaced),
        ],
    }


def of_withdrawal(
    result: Result, pathway: ModelReference, *, withdrawn: Sequence[str], report: str, recorded: str
) -> Json:
    """Return the Provenance that says why `withdrawn`, `Type/id` each, do not hold any more: `report` does."""
    return {
        **started(result, "Provenance", derived_id("withdrawal", report, recorded, *withdrawn)),
        "target": [{"reference": target} for target in withdrawn],
        "recorded": recorded,
        "reason": [
            {
                "text": "Superseded: the same pathway judged a newer version of the study, or with a newer model; "
                "one result holds at a time."
            }
        ],
        "activity": {"coding": [{"system": f"{HL7}/v3-DataOperation", "code": "OBSOLETE", "display": "obsolete"}]},
        "agent": [_agent(ASSEMBLER, pathway)],
        "entity": [{"role": "source", "what": {"reference": report}}],
    }


def _agent(role: str, model: ModelReference) -> Json:
    return {
        "type": {"coding": [{"system": f"{HL7}/provenance-participant-type", "code": role}]},
        "who": reference("Device", device_id(model)),
    }


def coded(provenance: Json, system: str) -> str:
    """Return the code of a Provenance's activity in one of our systems; empty where it has none."""
    coding = listed(within(provenance, "activity").get("coding"))
    return next(
        (str(item.get("code")) for item in coding if isinstance(item, dict) and item.get("system") == system), ""
    )
