"""Access tokens by SMART Backend Services: OAuth 2.0 client credentials with a signed assertion (`private_key_jwt`).

SMART App Launch 2.2, "Backend Services" and "Asymmetric authentication". Tokens are held in memory, and appear in no
text. The authorization server is found by the FHIR server's own statement; one on another host has to be configured,
since no request leaves for a host that is not.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import jwt

from auscult.platform.errors import RefuseToStart, Retry
from auscult.platform.settings import Settings
from auscult.publish.fhir.answers import parsed, seconds
from auscult.publish.fhir.client import FhirClient
from auscult.publish.fhir.connection import Answer, Asked, exchange
from auscult.publish.fhir.keys import signing_keys
from auscult.publish.fhir.smart_discovery import Endpoint, discovered, named, secure

ASSERTION_SECONDS = 240
"""The assertion's life; servers refuse more than five minutes."""
SKEW, MOST_SKEW = 30.0, 3600.0
"""Seconds between two clocks that are worth another try, and that nobody's time zone or fault explains any more."""
EARLY = 0.2
"""Part of a token's life that is left when it is renewed."""
SHORTEST, LONGEST = 10.0, 3600.0
"""Seconds that we take a token to live at least and at most, whatever the server says."""
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SCOPES = {
    "Patient": "rs",
    "Condition": "rs",
    "FamilyMemberHistory": "rs",
    "Consent": "rs",
    "Flag": "rs",
    "Observation": "crus",
    "ImagingStudy": "crs",
    "DiagnosticReport": "crus",
    "RiskAssessment": "cru",
    "Device": "cru",
    "Provenance": "crus",
    "AuditEvent": "c",
}
"""What Auscult does with each type: create, read, update, search."""
PROPOSAL_SCOPES = {"drafts": {"ServiceRequest": "cru"}, "tasks": {"Task": "cru"}}
"""By what is written beside results."""

ERRORS = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    }
)
"""RFC 6749, 5.2. Nothing else of an answer is repeated."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Token:
    text: str = field(repr=False)
    renew_at: float
    ends_at: float


class BackendServices:
    """Tokens for one FHIR server. Threads may share it: one of them renews, the others wait for it.

    RefuseToStart where the keys cannot sign. `clock`: seconds that never go back.
    """

    def __init__(
        self,
        base: str,
        client_id: str,
        keys: Path,
        *,
        token_url: str = "",
        scopes: str = "",
        extras: Collection[str] = (),
        listening: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base = base.rstrip("/")
        self._client_id = client_id
        self._file = keys
        self._token_url = secure(token_url) if token_url else ""
        self._scopes = scopes
        self._types = {**(listening or {}), **SCOPES}
        for extra in extras:
            self._types |= PROPOSAL_SCOPES.get(extra, {})
        self._clock = clock
        self._http = httpx.Client(transport=transport, follow_redirects=False, headers={"Accept": "application/json"})
        self._lock = threading.Lock()
        self._endpoint: Endpoint | None = None
        self._held: _Token | None = None
        self._ahead = 0.0
        try:
            self._keys, self._read_at = signing_keys(keys), keys.stat().st_mtime_ns
        except (ValueError, OSError) as error:
            raise RefuseToStart(
                "smart-keys-invalid", f"AUSCULT_FHIR_SMART_KEYS: {error}; make them with `auscult fhir keygen`"
            ) from None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def token(self, budget: float) -> str:
        """Return a token that holds. Retry where there is none within `budget` seconds."""
        held = self._held
        if held is not None and self._clock() < held.renew_at:
            return held.text
        return self._renewed("", budget)

    def renewed(self, refused: str, budget: float) -> str:
        """Return another token than `refused`, which the FHIR server did not take."""
        return self._renewed(refused, budget)

    def _renewed(self, refused: str, budget: float) -> str:
        end = time.monotonic() + budget
        if not self._lock.acquire(timeout=max(0.0, budget)):
            raise Retry("smart-timeout", "another request's access token did not come in time")
        try:
            held = self._held
            # Another thread may have renewed it meanwhile.
            if held is None or held.text == refused or self._clock() >= held.renew_at:
                held = self._held = self._asked_or_held(refused, end)
            return held.text
        finally:
            self._lock.release()

    def _asked_or_held(self, refused: str, end: float) -> _Token:
        """Ask for a token. One that still holds outlives an authorization server that does not answer."""
        try:
            return self._asked(end)
        except Retry:
            held = self._held
            if held is not None and held.text != refused and self._clock() < held.ends_at:
                return held
            raise

    def _asked(self, end: float) -> _Token:
        endpoint = self._endpoint or discovered(self._http, self._base, self._token_url, end)
        self._endpoint = endpoint
        taken = endpoint.algorithms
        usable = [key for key in self._current_keys() if not taken or key.algorithm_name in taken]
        if not usable:
            raise Retry(
                "smart-algorithm",
                "the authorization server does not take our keys' algorithms; add the other one by "
                "`auscult fhir keygen --algorithm`",
            )
        for key in usable:
            answer = self._grant(endpoint, key, end)
            if answer.status in {400, 401} and self._set_clock(answer.headers.get("Date")):
                answer = self._grant(endpoint, key, end)
            body = parsed(answer.text) or {}
            if answer.status == 200:
                return self._taken(body)
            if body.get("error") != "invalid_client":
                break
        if answer.status in {404, 405, 410}:
            self._endpoint = None  # it may have moved: look again next time
        error = body.get("error")
        said = error if error in ERRORS else "no OAuth error code"
        raise Retry(
            "smart-refused",
            f"the authorization server gave no access token: status {answer.status}, {said}; "
            "see that it has our client id, the keys of `auscult fhir jwks` and the scopes",
            after=seconds(answer.headers.get("Retry-After")),
        )

    def _grant(self, endpoint: Endpoint, key: jwt.PyJWK, end: float) -> Answer:
        now = int(time.time() + self._ahead)
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": endpoint.url,
            "iat": now,
            "exp": now + ASSERTION_SECONDS,
            "jti": str(uuid.uuid4()),
        }
        form = {
            "grant_type": "client_credentials",
            "scope": self._scopes or _scopes(self._types, version_2=endpoint.version_2),
            "client_assertion_type": ASSERTION,
            "client_assertion": jwt.encode(
                claims, key, algorithm=key.algorithm_name, headers={"kid": key.key_id, "typ": "JWT"}
            ),
        }
        asked = Asked("POST", "token", endpoint.url, urlencode(form).encode())
        with named():
            return exchange(self._http, asked, {"Content-Type": "application/x-www-form-urlencoded"}, end)

    def _set_clock(self, date: str | None) -> bool:
        """Take the server's time for our assertions where its clock is another than ours; whether that is news."""
        try:
            ahead = parsedate_to_datetime(date or "").timestamp() - time.time()
        except (ValueError, OverflowError):
            return False
        if abs(ahead) > MOST_SKEW or abs(ahead - self._ahead) < SKEW:
            return False
        _log.warning("the authorization server's clock differs from ours by %.0f s; its time is used there", ahead)
        self._ahead = ahead
        return True

    def _taken(self, body: dict[str, Any]) -> _Token:
        text, kind = body.get("access_token"), str(body.get("token_type", ""))
        if not isinstance(text, str) or not text.isascii() or not text.isprintable() or kind.lower() != "bearer":
            raise Retry("smart-malformed", "the authorization server's answer holds no bearer token")
        said = body.get("expires_in")
        life = min(max(float(said), SHORTEST), LONGEST) if isinstance(said, int | float) else SHORTEST
        now = self._clock()
        return _Token(text, now + life * (1 - EARLY), now + life)

    def _current_keys(self) -> list[jwt.PyJWK]:
        """Return the keys, read again where the file changed; what cannot be read does not take away what was."""
        try:
            changed = self._file.stat().st_mtime_ns
            if changed != self._read_at:
                self._keys, self._read_at = signing_keys(self._file), changed
        except (ValueError, OSError):
            _log.warning("AUSCULT_FHIR_SMART_KEYS cannot be read; the keys that it had before are used")
        return self._keys


def fhir_client(settings: Settings) -> FhirClient:
    """Return the client of the configured FHIR server, with tokens where they are configured."""
    if not settings.fhir_smart_client_id:
        return FhirClient(settings.fhir_base, settings.fhir_timeout)
    if settings.fhir_smart_keys is None:
        raise RefuseToStart(
            "smart-keys-missing", "AUSCULT_FHIR_SMART_CLIENT_ID needs AUSCULT_FHIR_SMART_KEYS: `auscult fhir keygen`"
        )
    tokens = BackendServices(
        settings.fhir_base,
        settings.fhir_smart_client_id,
        settings.fhir_smart_keys,
        token_url=settings.fhir_smart_token_url,
        scopes=settings.fhir_smart_scopes,
        extras=settings.fhir_extras,
        listening=_listening(settings),
    )
    return FhirClient(settings.fhir_base, settings.fhir_timeout, tokens=tokens)


def _listening(settings: Settings) -> dict[str, str]:
    """Return what is done with the types that subscriptions, polling and opt-out lists add."""
    watched = {text.split()[-1].partition("?")[0] for text in (*settings.fhir_subscriptions, *settings.fhir_poll)}
    return {
        **dict.fromkeys(sorted(watched), "rs"),
        **({"Subscription": "crus"} if settings.fhir_subscriptions else {}),
        **({"Group": "r"} if settings.opt_out_group else {}),
    }


def _scopes(types: dict[str, str], *, version_2: bool) -> str:
    if version_2:
        return " ".join(f"system/{name}.{letters}" for name, letters in types.items())
    wanted = []
    for name, letters in types.items():
        wanted += [f"system/{name}.read"] if set(letters) & set("rs") else []
        wanted += [f"system/{name}.write"] if set(letters) & set("cud") else []
    return " ".join(wanted)
