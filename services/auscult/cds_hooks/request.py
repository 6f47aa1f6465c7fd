"""What EHRs send, read strictly where it matters and leniently elsewhere (CDS Hooks 2.0.1, HTTP Request, Feedback).

Unknown fields and `extension` objects are skipped by the parser. No error text quotes a value.
"""

from __future__ import annotations

import uuid
from collections.abc import Container, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec

from auscult.cds_hooks.hooks import check_context
from auscult.cds_hooks.prefetch import Authorization
from auscult.platform.errors import Refused

T = TypeVar("T")
MOST_REASON = 256
"""Characters of a reason's system and code that are kept."""
EPIC_REASON = "com.epic.cdshooks.feedback.overrideReason.reasonCategory"
"""Where Epic tells a reason that is one of its own."""
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class _Reference(msgspec.Struct):
    reference: str = ""


class _Prefetched(msgspec.Struct, rename="camel"):
    """As much of a prefetched resource as tells whose it is."""

    resource_type: str = ""
    id: str = ""
    subject: _Reference | None = None
    patient: _Reference | None = None
    entry: list[_Entry] = []

    def patients(self) -> Iterator[str]:
        """Yield the ids of the patients whose data it is: of a Bundle, of each entry."""
        if self.resource_type == "Patient" and self.id:
            yield self.id
        for reference in (self.subject, self.patient):
            if reference:
                yield from _patient(reference.reference)
        for entry in self.entry:
            if entry.resource:
                yield from entry.resource.patients()


class _Entry(msgspec.Struct):
    resource: _Prefetched | None = None


def _patient(reference: str) -> Iterator[str]:
    """Yield the id where it is a reference to a Patient: relative or absolute, of a version or not."""
    kind, _, found = reference.partition("/_history/")[0].rpartition("/")
    if kind.rpartition("/")[2] == "Patient":
        yield found


def _patients_anywhere(content: object) -> Iterator[str]:
    """Yield what `_Prefetched.patients` does, of what has not the types of FHIR, or a list of subjects."""
    if isinstance(content, list):
        for each in content:
            yield from _patients_anywhere(each)
    if isinstance(content, dict):
        if content.get("resourceType") == "Patient" and "id" in content:
            yield str(content["id"])
        yield from _patient(str(content.get("reference", "")))
        for name in ("subject", "patient", "entry", "resource"):
            yield from _patients_anywhere(content.get(name))


class HookRequest(msgspec.Struct, rename="camel"):
    """A call of a service. `prefetch` is decoded when somebody asks for it."""

    hook: Text
    hook_instance: uuid.UUID
    context: dict[str, Any]
    fhir_server: str | None = None
    fhir_authorization: Authorization | None = None
    prefetch: dict[str, msgspec.Raw] | None = None
    extension: Any = None

    @property
    def patient(self) -> str:
        """The patient in context as `Patient/<id>`; Refused (400) where it is not one, or prefetch has another."""
        found = str(self.context["patientId"]).removeprefix("Patient/")
        if not found or not found.isprintable() or " " in found or "/" in found:
            raise Refused("patient-invalid", "context.patientId must be the id of one FHIR Patient", status=400)
        if any(each != found for each in self._patients()):
            raise Refused(
                "patient-differs",
                "the data in prefetch is not of the patient in context.patientId; send both for the same patient",
                status=400,
            )
        return f"Patient/{found}"

    def _patients(self) -> Iterator[str]:
        """Yield the ids of all patients in the call: whose data was prefetched, and whom the token is for."""
        for raw in (self.prefetch or {}).values():
            try:
                resource = _prefetched.decode(raw)
            except msgspec.ValidationError:
                yield from _patients_anywhere(msgspec.json.decode(raw))
            else:
                yield from resource.patients() if resource else ()
        if self.fhir_authorization and self.fhir_authorization.patient:
            yield self.fhir_authorization.patient.removeprefix("Patient/")


class AcceptedSuggestion(msgspec.Struct):
    """The suggestion that was taken."""

    id: Text


class OverrideReason(msgspec.Struct, rename="camel"):
    """Why a card was dismissed. The comment may say anything about a patient: it goes nowhere."""

    reason: dict[str, Any] | None = None
    user_comment: str | None = None


class Feedback(msgspec.Struct, rename="camel"):
    """What became of one card. `override_reasons`: Epic's spelling of the field, with one reason in it."""

    card: Text
    outcome: Text
    outcome_timestamp: Text
    accepted_suggestions: tuple[AcceptedSuggestion, ...] | None = None
    override_reason: OverrideReason | None = None
    override_reasons: Any = None

    @property
    def at(self) -> datetime:
        """When it came to that, in UTC; ValueError where that is not told. ISO 8601 is wider than RFC 3339."""
        moment = datetime.fromisoformat(self.outcome_timestamp.upper())
        if moment.tzinfo is None:
            raise ValueError("a time without its offset")
        return moment.astimezone(UTC)

    @property
    def reason(self) -> tuple[str, str]:
        """System and code of the reason, empty where none was chosen from a list."""
        more = self.override_reasons[:1] if isinstance(self.override_reasons, list) else [self.override_reasons]
        epic = next((each for each in more if isinstance(each, dict)), {})
        coding = (self.override_reason and self.override_reason.reason) or epic.get("reason") or {}
        extension = epic.get("extension")
        if not coding and isinstance(extension, dict) and EPIC_REASON in extension:
            coding = {"system": f"urn:{EPIC_REASON}", "code": extension[EPIC_REASON]}
        if not isinstance(coding, dict):
            return "", ""
        return str(coding.get("system") or "")[:MOST_REASON], str(coding.get("code") or "")[:MOST_REASON]


class FeedbackRequest(msgspec.Struct):
    """One or many outcomes; the same one may come twice."""

    feedback: Annotated[tuple[Feedback, ...], msgspec.Meta(min_length=1)]


_hook = msgspec.json.Decoder(HookRequest)
_prefetched = msgspec.json.Decoder(_Prefetched | None)
_feedback = msgspec.json.Decoder(FeedbackRequest)


def read_hook(body: bytes, hooks: Container[str]) -> HookRequest:
    """Read a call of a service that answers `hooks`; Refused (400) names the field that is missing or wrong."""
    request = _decode(_hook, body)
    if request.hook not in hooks:
        raise Refused("hook-unexpected", "this service does not answer that hook; see discovery", status=400)
    check_context(request.hook, request.context)
    return request


def read_feedback(body: bytes) -> tuple[Feedback, ...]:
    """Read feedback; Refused (400) names the field that is missing or wrong."""
    items = _decode(_feedback, body).feedback
    for item in items:
        if item.outcome not in {"accepted", "overridden"}:
            raise Refused("outcome-unknown", "feedback.outcome must be accepted or overridden", status=400)
        if item.outcome == "accepted" and not item.accepted_suggestions:
            raise Refused("suggestions-missing", "an accepted outcome needs acceptedSuggestions", status=400)
        try:
            _ = item.at
        except (ValueError, OverflowError):
            raise Refused(
                "time-invalid", "feedback.outcomeTimestamp must be an ISO 8601 time with its offset", status=400
            ) from None
    return items


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as problem:
        # Of these types the decoder's text names field and type alone (it would quote an enum's or a tag's value).
        raise Refused("request-invalid", str(problem), status=400) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refused("request-malformed", "the body is not JSON, or is nested too deeply", status=400) from None
