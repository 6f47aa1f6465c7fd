"""The JWT that a CDS client signs for each call (CDS Hooks 2.0.1, Trusting CDS Clients; RFC 7519, RFC 8725).

Everything that can be told from the text alone is told before a key is fetched, so that a token decides
neither whom we ask nor how much we do.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Never

from jwt import PyJWS

from auscult.cds_hooks.trust.clients import Client, Clients
from auscult.cds_hooks.trust.keys import Key, Keys, KeySet, read_keys

LONGEST = 8192
"""Characters of a token."""
LEEWAY = 5.0
"""Seconds that the two clocks may differ."""
_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_UNREAD = {"crit", "jwk", "x5c", "x5u", "b64", "zip", "enc"}
"""Headers with which a token would bring its own key or another meaning; none has a place here."""
_ALGORITHMS = {name: PyJWS().get_algorithm_by_name(name) for name in ("ES384", "RS384", "ES256", "RS256")}


class Unauthorised(Exception):
    """The caller is not let in. `reason` is for our counters; the caller is told nothing but 401."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Claim:
    """What a verified token says: who calls, and what makes it this one call's."""

    client: Client
    jti: str
    expires: float
    """Seconds since the epoch."""


class Verifier:
    """Verifies tokens of registered clients. Used on one event loop."""

    def __init__(self, clients: Clients, before: Verifier | None = None) -> None:
        """`before`: one whose fetched keys are taken over, for the time in which their server may be away."""
        self._clients = clients
        known: Mapping[str, KeySet] = before.fetched if before else {}
        self.fetched: Mapping[str, KeySet] = {
            url: known.get(url) or KeySet(url) for client in clients.clients for url in client.jku
        }
        """Key sets by address."""
        self._given: dict[str, Keys] = {
            client.name: read_keys(client.jwks) for client in clients.clients if client.jwks is not None
        }

    async def verify(self, token: str, audiences: Sequence[str]) -> Claim:
        """Return what `token` claims; Unauthorised where anything is amiss.

        `audiences`: the values of `aud` of which the token must have one, where its client has none registered.
        """
        header, payload = _parts(token)
        client = self._clients.find(_text(payload, "iss"), payload.get("tenant"))
        if client is None:
            raise Unauthorised("iss")
        _check_header(header, client)
        expires = _check_times(payload, client)
        given = payload.get("aud")
        named = [given] if isinstance(given, str) else given
        if not isinstance(named, list) or not set(client.audiences or audiences).intersection(
            each for each in named if isinstance(each, str)
        ):
            raise Unauthorised("aud")
        jti = _text(payload, "jti")
        key = await self._key(client, header)
        if key is None or header["alg"] not in key.algorithms:
            raise Unauthorised("key")
        signed, _, signature = token.rpartition(".")
        # The site allows this client the algorithm, and it fits the key: the token only chose among those.
        if not _ALGORITHMS[header["alg"]].verify(signed.encode(), key.public, _decoded(signature)):
            raise Unauthorised("signature")
        return Claim(client, f"{client.name}|{jti}", expires)

    async def _key(self, client: Client, header: dict[str, Any]) -> Key | None:
        kid = header["kid"]
        if client.jwks is not None:
            return self._given[client.name].get(kid)
        return await self.fetched[header.get("jku", client.jku[0]).rstrip("/")].get(kid)


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header and the payload of a compact JWS, not verified."""
    if len(token) > LONGEST or not _SHAPE.fullmatch(token):
        raise Unauthorised("shape")
    header, payload, _ = token.split(".")
    return _json(header), _json(payload)


def _json(part: str) -> dict[str, Any]:
    try:
        content = json.loads(_decoded(part).decode(), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise Unauthorised("json") from None
    if not isinstance(content, dict):
        raise Unauthorised("json")
    return content


def _decoded(part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise Unauthorised("shape") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name given twice, of which another parser might take the other one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _refuse(_: str) -> Never:
    raise ValueError


def _check_header(header: dict[str, Any], client: Client) -> None:
    if header.get("alg") not in client.algorithms:
        raise Unauthorised("alg")
    if str(header.get("typ", "")).upper() != "JWT":
        raise Unauthorised("typ")
    if not _UNREAD.isdisjoint(header):
        raise Unauthorised("header")
    _text(header, "kid")
    # The list decides, before anything is fetched.
    if "jku" in header and _text(header, "jku").rstrip("/") not in client.jku:
        raise Unauthorised("jku")


def _check_times(payload: dict[str, Any], client: Client) -> float:
    """Check `iat`, `nbf` and `exp`; return when the token expires."""
    now = time.time()
    issued, expires = _seconds(payload, "iat"), _seconds(payload, "exp")
    if not issued - LEEWAY <= now < expires + LEEWAY or not 0 < expires - issued <= client.max_lifetime:
        raise Unauthorised("time")
    if "nbf" in payload and _seconds(payload, "nbf") > now + LEEWAY:
        raise Unauthorised("nbf")
    return expires


def _seconds(payload: dict[str, Any], name: str) -> float:
    value = payload.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**40:
        raise Unauthorised(name)
    return float(value)


def _text(content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 512:
        raise Unauthorised(name)
    return value
