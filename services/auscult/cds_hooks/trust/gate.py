"""Lets a request in, as the client that it comes from, or answers a bare 401."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from starlette.requests import Request

from auscult.cds_hooks.trust.clients import Client, Clients, read_clients
from auscult.cds_hooks.trust.replay import ReplayGuard
from auscult.cds_hooks.trust.tokens import Unauthorised, Verifier
from auscult.platform.errors import Refused, RefuseToStart
from auscult.platform.settings import Settings

LOOK = 5.0
"""Seconds between two looks whether the clients' file changed."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what that gives: whose cards, which FHIR servers, which vendor's ways."""

    name: str
    tenant: str
    fhir_bases: tuple[str, ...]
    profile: Literal["none", "epic", "oracle"] = "none"
    registered: bool = True
    triggers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    orders: Mapping[str, str] = field(default_factory=dict)
    links: tuple[str, ...] = ()
    system_actions: bool = False

    def fhir_server(self, given: str | None) -> str | None:
        """Return the registered base that `fhirServer` names; Unauthorised where it names any other.

        A caller that nobody registered names what it likes, and no request goes there: None.
        """
        base = given.removesuffix("/") if given is not None else None
        if base in self.fhir_bases:
            return base
        if base is not None and self.registered:
            raise Unauthorised("fhirServer")
        return None


@dataclass(slots=True)
class _Bucket:
    """A token bucket: so many requests a second, twice as many at once."""

    rate: float
    level: float = 0.0
    at: float = field(default_factory=time.monotonic)

    def wait(self) -> float:
        """Take one; return the seconds to wait where there is none."""
        now = time.monotonic()
        self.level = max(0.0, self.level - (now - self.at) * self.rate)
        self.at = now
        if self.level + 1 > 2 * self.rate and self.level > 0:
            return (self.level + 1 - 2 * self.rate) / self.rate
        self.level += 1
        return 0.0


class Gate:
    """Admits calls of registered clients. Without a file of clients it is open, for loopback and demos alone."""

    def __init__(self, settings: Settings, guard: ReplayGuard | None = None) -> None:
        self._settings = settings
        self._guard = guard
        self._path: Path | None = settings.hooks_clients
        self._looked = time.monotonic()
        self._stamp = _stamp(self._path)
        self._buckets: dict[str, _Bucket] = {}
        self._clients: Clients | None = read_clients(self._path) if self._path else None
        self._verifier = Verifier(self._clients) if self._clients else None
        self._open = Caller("open", settings.tenant, (settings.fhir_base.rstrip("/"),), registered=False)
        self.refused: Counter[str] = Counter()
        """Calls that were not let in, by reason."""

    @property
    def ready(self) -> bool:
        """Whether a token that was used before this replica started would be known."""
        return self._guard is None or self._guard.ready

    @property
    def anyone(self) -> Caller | None:
        """Who calls where nobody is registered, so that anyone may; else None."""
        return self._open if self._verifier is None else None

    def fetch_keys(self) -> None:
        """Begin to fetch all registered key sets: a first call waits less long than a slow server may need."""
        for keys in self._verifier.fetched.values() if self._verifier else ():
            keys.fetch()

    async def admit(self, request: Request, service: str) -> Caller:
        """Return who calls `service`; Unauthorised, or Refused (403, 429) where a known client may not."""
        if self._verifier is None:
            return self._open
        self._look()
        given = request.headers.getlist("authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != "bearer":
            raise Unauthorised("header")
        # Not `request.url`, which the Host header has a part in.
        url = f"{self._settings.hooks_public_url.rstrip('/')}{request.scope['path']}"
        claim = await self._verifier.verify(token.strip(), (url, url.removesuffix("/feedback")))
        self._pace(claim.client)
        if self._guard and not await self._guard.first(claim.jti, claim.expires):
            raise Unauthorised("replay")
        client = claim.client
        if client.services is not None and service not in client.services:
            raise Refused("service-not-registered", "this client is not registered for this service", status=403)
        return Caller(
            client.name,
            client.tenant or self._settings.tenant,
            client.fhir_bases,
            client.profile,
            triggers=client.triggers,
            orders=client.orders,
            links=client.links,
            system_actions=client.system_actions,
        )

    def _pace(self, client: Client) -> None:
        bucket = self._buckets.setdefault(client.name, _Bucket(client.per_second))
        if (seconds := bucket.wait()) > 0:
            raise TooMany(seconds)

    def _look(self) -> None:
        """Read the clients' file again where it changed; one that cannot be used changes nothing, and is told."""
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        stamp = _stamp(self._path)
        if self._path is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            clients = read_clients(self._path)
        except RefuseToStart as problem:
            _log.error("the clients registered before go on: %s", problem)
            return
        self._verifier = Verifier(clients, self._verifier)
        self.fetch_keys()
        self._buckets.clear()
        _log.info("%d clients are registered now", len(clients.clients))


class TooMany(Refused):
    """The client called too often. `after`: seconds until it may again."""

    def __init__(self, after: float) -> None:
        super().__init__("too-many-requests", "this client's rate is used up; wait, then go on", status=429)
        self.after = after


def _stamp(path: Path | None) -> tuple[int, int]:
    try:
        found = path.stat() if path else None
    except OSError:
        found = None
    return (found.st_mtime_ns, found.st_ino) if found else (0, 0)
