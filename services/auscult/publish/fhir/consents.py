"""Whether a patient may be computed: Consent resources, security labels, and lists of those who opted out.

Read before any model runs. Where a rule cannot be understood, the stricter reading counts: a denial with a condition
that is not known here holds, a permission with one does not.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from auscult.platform.errors import Retry
from auscult.platform.settings import Settings
from auscult.publish.fhir.answers import Resource, listed, within
from auscult.publish.fhir.client import FhirClient, reference_id

ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
ACT_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
ACTION = "http://terminology.hl7.org/CodeSystem/consentaction"
SCOPE = "http://terminology.hl7.org/CodeSystem/consentscope"
OPT_IN, OPT_OUT = (ACT_CODE, "OPTIN"), (ACT_CODE, "OPTOUT")
"""Policy rules (R4 `valueset-consent-policy.html`): what holds where no provision says otherwise."""
SCOPES = frozenset({(SCOPE, "patient-privacy"), (SCOPE, "treatment")})
"""Scopes of Consents that are about this; research and advance directives are not."""
ACTIONS = frozenset({(ACTION, "access"), (ACTION, "use"), (ACTION, "collect")})
"""What computing on a patient's data is."""
_UNKNOWN = ("actor", "securityLabel", "class", "code", "dataPeriod", "data")
"""Conditions of a provision that narrow it to some data or some people."""

_PLACE = re.compile(r"[A-Z][A-Za-z]{1,63}/[A-Za-z0-9\-.]{1,64}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a patient is not computed. `detail` is for the operator, no PHI."""

    reason: str
    detail: str
    basis: str = ""
    """`Type/id` of what in the record says so; empty where a list of the site's does, or nothing permits it."""


@dataclass(frozen=True)
class Rules:
    """What the site set."""

    permitted_by_default: bool
    purposes: frozenset[str]
    labels: frozenset[tuple[str, str]]
    flags: frozenset[tuple[str, str]]
    group: str
    file: Path | None

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """Take them from the settings."""
        return cls(
            settings.consent_default == "permit",
            frozenset(settings.consent_purposes),
            frozenset(map(_pair, settings.consent_labels)),
            frozenset(map(_pair, settings.opt_out_flags)),
            settings.opt_out_group,
            settings.opt_out_file,
        )


def refusal(client: FhirClient, patient: str, rules: Rules, now: datetime | None = None) -> Refusal | None:
    """Return why `patient` (`Patient/<id>`) is not to be computed; Retry where that cannot be known."""
    identity = reference_id(patient, "Patient")
    consents, patients, flags = client.batch(
        [
            ("Consent", {"patient": identity, "_count": "200"}),
            ("Patient", {"_id": identity}),
            ("Flag", {"patient": identity, "_count": "200"}),
        ]
    )
    own = next(iter(patients or []), None)
    if own is None:
        raise Retry(
            "patient-unreadable", "the FHIR server does not show the patient's resource; see its access rules"
        )
    if rules.labels & set(_codings(within(own, "meta").get("security"))):
        return Refusal("security-label", "the patient's record bears a security label that forbids it", patient)
    if rules.file is not None and _listed(rules.file, patient, own):
        return Refusal("opted-out", "the patient opted out")
    if rules.group and _member(client, rules.group, patient):
        return Refusal("opted-out", "the patient opted out", rules.group)
    for flag in flags or []:
        if flag.get("status") == "active" and rules.flags & set(_concept(flag.get("code"))):
            return Refusal("opted-out", "the patient opted out", _place(flag))
    return _consented(consents, rules, now or datetime.now(UTC))


def _consented(consents: list[Resource] | None, rules: Rules, now: datetime) -> Refusal | None:
    """Return what the Consents say together: one that denies outweighs those that permit."""
    if consents is None:
        _log.warning("the FHIR server does not support searching Consent by patient; the site's default holds")
    said = [permits(consent, rules.purposes, now) for consent in consents or []]
    if False in said:
        denying = (consents or [])[said.index(False)]
        return Refusal("consent-denied", "a Consent in the record denies it", _place(denying))
    if True in said or rules.permitted_by_default:
        return None
    return Refusal("consent-missing", "the record has no Consent that permits it, and the site demands one")


def permits(consent: Resource, purposes: Collection[str], now: datetime) -> bool | None:
    """Return what one Consent says about us; None where it says nothing (R4 `consent.html`)."""
    if consent.get("status") != "active" or not SCOPES & set(_concept(consent.get("scope"))):
        return None
    policy = set(_concept(consent.get("policyRule")))
    base = False if OPT_OUT in policy else True if OPT_IN in policy else None
    provision = consent.get("provision")
    if not isinstance(provision, dict):
        return base
    said = _provision(provision, purposes, now)
    return base if said is None else said


def _provision(provision: dict[str, Any], purposes: Collection[str], now: datetime) -> bool | None:
    """Return what a rule says, an exception within it before itself; None where it does not apply."""
    kind = {"deny": False, "permit": True}.get(str(provision.get("type")))
    if not _applies(provision, purposes, now, strictly=kind is True):
        return None
    nested = provision.get("provision", [])
    inner = [
        _provision(one, purposes, now)
        for one in (nested if isinstance(nested, list) else [])
        if isinstance(one, dict)
    ]
    return False if False in inner else True if True in inner else kind


def _applies(provision: dict[str, Any], purposes: Collection[str], now: datetime, *, strictly: bool) -> bool:
    """Whether a rule is about us, now. `strictly`: what cannot be known counts as that it is not."""
    period = provision.get("period")
    if isinstance(period, dict):
        start, end = str(period.get("start", "")), str(period.get("end", ""))
        # As dates: a day that has begun counts, and one that has not ended.
        today = now.isoformat()
        if (start and today[: len(start[:10])] < start[:10]) or (end and today[: len(end[:10])] > end[:10]):
            return False
    purpose = {code for system, code in _codings(provision.get("purpose")) if system == ACT_REASON}
    if provision.get("purpose") and not purpose & set(purposes):
        return False
    actions = {coding for concept in listed(provision.get("action")) for coding in _concept(concept)}
    if provision.get("action") and not actions & ACTIONS:
        return False
    return not (strictly and any(provision.get(name) for name in _UNKNOWN))


def _listed(file: Path, patient: str, resource: Resource) -> bool:
    """Whether the opt-out file names the patient; Retry where it cannot be read: nobody is computed by mistake."""
    try:
        lines = {line.strip() for line in file.read_text(encoding="utf-8").splitlines()}
    except (OSError, UnicodeDecodeError):
        raise Retry("opt-out-unreadable", "AUSCULT_OPT_OUT_FILE cannot be read; see that it is there") from None
    own = {
        f"{identifier.get('system', '')}|{identifier.get('value', '')}"
        for identifier in listed(resource.get("identifier"))
        if isinstance(identifier, dict)
    }
    return bool(lines & {patient, *own})


def _member(client: FhirClient, group: str, patient: str) -> bool:
    found = client.read("Group", reference_id(group, "Group"))
    if found is None:
        raise Retry("opt-out-unreadable", "the record has no AUSCULT_OPT_OUT_GROUP; correct the setting")
    return any(
        isinstance(member, dict)
        and not member.get("inactive")
        and isinstance(member.get("entity"), dict)
        and "/".join(str(member["entity"].get("reference", "")).split("/")[-2:]) == patient
        for member in listed(found.get("member"))
    )


def _place(resource: Resource) -> str:
    """Return `Type/id`; empty where the server gave what is no id."""
    place = f"{resource.get('resourceType')}/{resource.get('id')}"
    return place if _PLACE.fullmatch(place) else ""


def _pair(text: str) -> tuple[str, str]:
    system, _, code = text.rpartition("|")
    return system, code


def _codings(codings: Any) -> Iterable[tuple[str, str]]:
    for coding in listed(codings):
        if isinstance(coding, dict):
            yield str(coding.get("system", "")), str(coding.get("code", ""))


def _concept(concept: Any) -> Iterator[tuple[str, str]]:
    yield from _codings(concept.get("coding")) if isinstance(concept, dict) else ()
