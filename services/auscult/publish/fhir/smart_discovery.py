"""Where a FHIR server's access tokens are given: SMART App Launch 2.2, "Discovery", or SMART 1.0's statement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from auscult.platform.errors import RefuseToStart, Retry
from auscult.publish.fhir.answers import parsed, seconds
from auscult.publish.fhir.connection import Asked, exchange, origin

OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"


@dataclass(frozen=True)
class Endpoint:
    """Where tokens are given, and what the server says it takes."""

    url: str
    algorithms: frozenset[str]
    """Empty where it does not say."""
    version_2: bool
    """Whether it understands scopes of SMART 2 (`system/Patient.rs`)."""


def discovered(http: httpx.Client, base: str, token_url: str, end: float) -> Endpoint:
    """Ask `.well-known/smart-configuration`, and the CapabilityStatement where there is none.

    `token_url`: the configured one, which may be on another host. Retry until `end` of the monotonic clock.
    """
    said = _got(http, f"{base}/.well-known/smart-configuration", end)
    url = said.get("token_endpoint") if said else None
    if not isinstance(url, str):
        said = {}
        url = _of_capabilities(_got(http, f"{base}/metadata", end) or {})
    url = token_url or url
    if not url:
        raise Retry(
            "smart-undiscovered",
            "the FHIR server names no token endpoint; set AUSCULT_FHIR_SMART_TOKEN_URL",
        )
    if not token_url and origin(url) != origin(base):
        raise Retry(
            "smart-foreign-token-endpoint",
            "the FHIR server's token endpoint is on another host, which is not asked before "
            "AUSCULT_FHIR_SMART_TOKEN_URL names it",
        )
    algorithms = said.get("token_endpoint_auth_signing_alg_values_supported") if said else None
    capabilities = said.get("capabilities") if said else None
    return Endpoint(
        secure(url),
        frozenset(map(str, algorithms)) if isinstance(algorithms, list) else frozenset(),
        isinstance(capabilities, list) and "permission-v2" in capabilities,
    )


def _got(http: httpx.Client, url: str, end: float) -> dict[str, Any] | None:
    with named():
        answer = exchange(http, Asked("GET", "discovery", url), {}, end)
    if answer.status >= 500 or answer.status == 429:
        raise Retry(
            "smart-unavailable",
            f"the FHIR server's SMART configuration answered with status {answer.status}",
            after=seconds(answer.headers.get("Retry-After")),
        )
    return parsed(answer.text) if answer.status == 200 else None


def _of_capabilities(statement: dict[str, Any]) -> str | None:
    """Return the token endpoint that a CapabilityStatement names (SMART 1.0's oauth-uris)."""
    try:
        return next(
            str(part["valueUri"])
            for rest in statement.get("rest", ())
            for extension in rest.get("security", {}).get("extension", ())
            if extension.get("url") == OAUTH_URIS
            for part in extension.get("extension", ())
            if part.get("url") == "token"
        )
    except (StopIteration, KeyError, TypeError, AttributeError):
        return None


def secure(url: str) -> str:
    """Return `url`; RefuseToStart where a token would travel in the clear to another machine."""
    place = urlsplit(url)
    if place.scheme != "https" and place.hostname not in {"127.0.0.1", "::1", "localhost"}:
        raise RefuseToStart("smart-insecure", "the token endpoint has to be https: tokens would travel in the clear")
    return url


@contextmanager
def named() -> Iterator[None]:
    """Turn failures of the connection into Retry."""
    try:
        yield
    except (httpx.TimeoutException, TimeoutError):
        raise Retry("smart-timeout", "the authorization server did not answer in time") from None
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise Retry(
            "smart-unavailable", f"no answer from the authorization server ({type(error).__name__}); see that it runs"
        ) from None
