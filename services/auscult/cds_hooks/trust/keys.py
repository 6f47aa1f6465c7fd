"""A client's public keys: given in place, or fetched from a registered `jku` and kept (RFC 7517)."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import httpx
import jwt
import msgspec
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

LIMIT = 256 * 1024
"""Bytes of a key set."""
MOST_KEYS = 64
TIMEOUT = 2.0
"""Seconds a fetch may take as a whole."""
PATIENCE = 0.3
"""Seconds that a call waits for a fetch."""
FRESH = 3600.0
"""Seconds after which a key set is fetched again."""
PAUSE = 10.0
"""Seconds between two fetches that unknown keys ask for: whoever invents key ids causes no flood."""
STALE = 24 * 3600.0
"""Seconds a key set still serves while its server cannot be reached."""
SMALLEST_RSA = 2048
"""Bits (NIST SP 800-131A)."""
LARGEST_RSA = 8192
"""Bits: what verifying one signature may cost."""
RSA = frozenset({"RS256", "RS384"})
CURVES = {"P-256": frozenset({"ES256"}), "P-384": frozenset({"ES384"})}
HEADERS = {"accept": "application/json", "accept-encoding": "identity"}
"""Nothing packed, which could be larger than it looks."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, and the algorithms that may be used with it."""

    public: Any
    algorithms: frozenset[str]


Keys = Mapping[str, Key]


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]


def read_keys(content: object) -> Keys:
    """Return a key set's usable public keys by id; others are passed over. DecodeError where it is no set."""
    listed = msgspec.convert(content, _Set).keys[:MOST_KEYS]
    found: dict[str, Key] = {}
    for key in listed:
        kid = key.get("kid")
        if isinstance(kid, str) and kid not in found and (usable := _usable(key)):
            found[kid] = usable
    return found


def _usable(key: dict[str, Any]) -> Key | None:
    if key.get("use", "sig") != "sig" or "verify" not in key.get("key_ops", ["verify"]):
        return None
    public: Any
    try:
        if key["kty"] == "RSA":
            # The public members alone: a private key that someone published is no reason to hold it.
            public = RSAAlgorithm.from_jwk({name: key[name] for name in ("kty", "n", "e")})
            fitting = RSA if SMALLEST_RSA <= public.key_size <= LARGEST_RSA else frozenset()
        elif key["kty"] == "EC":
            public = ECAlgorithm.from_jwk({name: key[name] for name in ("kty", "crv", "x", "y")})
            fitting = CURVES[key["crv"]]
        else:
            return None
    except (jwt.PyJWTError, KeyError, ValueError, TypeError):
        return None
    usable = fitting & {key["alg"]} if isinstance(key.get("alg"), str) else fitting
    return Key(public, usable) if usable else None


@lru_cache(maxsize=1)
def _trusted() -> ssl.SSLContext:
    """Return the certificates by which servers are trusted, with a site's own in `SSL_CERT_FILE`; it reads files."""
    return httpx.create_ssl_context()


class KeySet:
    """The keys at one `jku`. Used on one event loop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._tls = _trusted()
        self._keys: Keys = {}
        self._fetched = -STALE
        self._tried = -PAUSE
        self._fetch_task: asyncio.Task[None] | None = None

    async def get(self, kid: str) -> Key | None:
        """Return the key `kid`, fetched anew where it is unknown or the set is old; None where there is none.

        A call waits for a fetch no longer than its budget bears; the fetch goes on for the calls after it.
        """
        now = time.monotonic()
        wanted = kid not in self._keys or now - self._fetched >= FRESH
        if wanted and not self._fetching() and now - self._tried >= PAUSE:
            self._tried = now
            self.fetch()
        if self._fetch_task and self._fetching() and (kid not in self._keys or now - self._fetched >= STALE):
            await asyncio.wait({self._fetch_task}, timeout=PATIENCE)
        return self._keys.get(kid) if time.monotonic() - self._fetched < STALE else None

    def fetch(self) -> None:
        """Begin to fetch the set, unless that goes on already."""
        if not self._fetching():
            self._fetch_task = asyncio.create_task(self._fetch())

    def _fetching(self) -> bool:
        return self._fetch_task is not None and not self._fetch_task.done()

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                self._keys = read_keys(msgspec.json.decode(await self._download()))
            self._fetched = time.monotonic()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError, ValueError, msgspec.DecodeError) as problem:
            _log.warning("a client's key set could not be fetched (%s); those known go on", type(problem).__name__)

    async def _download(self) -> bytes:
        # Neither redirects nor the environment's proxies: the registered address is the one that is asked.
        async with (
            httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=TIMEOUT, verify=self._tls) as http,
            http.stream("GET", self._url, headers=HEADERS) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise ValueError("not found")
            body = bytearray()
            async for part in answer.aiter_raw():
                body += part
                if len(body) > LIMIT:
                    raise ValueError("too long")
            return bytes(body)
