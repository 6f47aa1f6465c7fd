"""Keeps our subscriptions on the FHIR server: created, repaired where the server gave them up, renewed in time.

The R4 Subscription resource, with the Backport IG's extensions where a topic serves. A subscription is ours by its
endpoint, which has the watch's name in it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from auscult.listen.fhir_subscription import PATH, Secrets
from auscult.listen.marks import instant
from auscult.listen.record import Record, Watch
from auscult.platform.errors import DeadLetter, RefuseToStart, Retry
from auscult.platform.settings import Settings

_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition"
HEARTBEAT = 60
"""Seconds: a topic-based subscription says so often that it lives, and with it how many events there were."""
RENEWED_BEFORE = timedelta(days=2)
RENEWED_FOR = timedelta(days=30)
LOOK = 300.0
"""Seconds between two looks at whether the subscriptions are in order."""

Deed = Literal["created", "repaired", "renewed", "unchanged"]
_log = logging.getLogger(__name__)


class Registrar:
    """Registers watches at one FHIR server."""

    def __init__(self, settings: Settings, record: Record, secrets: Secrets) -> None:
        if not settings.fhir_notify_url:
            raise RefuseToStart(
                "notify-url-missing", "set AUSCULT_FHIR_NOTIFY_URL to where the FHIR server reaches this service"
            )
        self._url = settings.fhir_notify_url.rstrip("/")
        self._payload = settings.fhir_subscription_payload
        self._record = record
        self._secrets = secrets

    def ensure(self, watch: Watch) -> Deed:
        """Make the server's subscription what it should be. Raises Retry and DeadLetter as the server says."""
        wanted = self.resource(watch)
        endpoint = wanted["channel"]["endpoint"]
        found = [
            one
            for one in self._record.search("Subscription", {"url": endpoint})
            if isinstance(one.get("channel"), dict)
            and one["channel"].get("endpoint") == endpoint
            and isinstance(one.get("id"), str)
        ]
        alive = [one for one in found if str(one.get("status")) in {"active", "requested"}]
        held = next(iter(alive or found), None)
        if held is None:
            self._record.save(wanted)
            return "created"
        end = str(held.get("end", ""))
        ends_soon = bool(end) and instant(end) < datetime.now(UTC) + RENEWED_BEFORE
        if not alive or not _same(held, wanted):
            deed: Deed = "repaired"
        elif ends_soon:
            deed = "renewed"
        else:
            return "unchanged"
        if end:
            wanted["end"] = (datetime.now(UTC) + RENEWED_FOR).isoformat(timespec="seconds")
        self._record.save({**wanted, "id": held["id"]})
        return deed

    def ensure_all(self, watches: Iterable[Watch]) -> bool:
        """Do so for each, and log what was done; return whether all are in order."""
        done = True
        for watch in watches:
            try:
                deed = self.ensure(watch)
            except (Retry, DeadLetter) as problem:
                _log.warning("subscription %s is not registered, it is tried again: %s", watch.name, problem)
                done = False
                continue
            if deed != "unchanged":
                _log.info("subscription %s was %s", watch.name, deed)
        return done

    def keep(self, watches: Iterable[Watch], stop: threading.Event) -> None:
        """Do so now and then, until `stop` is set."""
        listed = list(watches)
        while True:
            done = self.ensure_all(listed)
            if stop.wait(LOOK if done else LOOK / 20):
                return

    def resource(self, watch: Watch) -> dict[str, Any]:
        """Return the Subscription as it is registered."""
        channel: dict[str, Any] = {
            "type": "rest-hook",
            "endpoint": f"{self._url}{PATH}/{watch.name}",
            "header": [f"Authorization: Bearer {self._secrets.first}"],
        }
        if self._payload != "empty" or watch.topic:
            channel["payload"] = "application/fhir+json"
        resource: dict[str, Any] = {
            "resourceType": "Subscription",
            "status": "requested",
            "reason": "Auscult: runs of clinical pathways wait for what this finds",
            "criteria": watch.criteria,
            "channel": channel,
        }
        if watch.topic:
            resource["meta"] = {"profile": [f"{_BACKPORT}/backport-subscription"]}
            resource["criteria"] = watch.topic
            resource["_criteria"] = {
                "extension": [{"url": f"{_BACKPORT}/backport-filter-criteria", "valueString": watch.criteria}]
            }
            channel["extension"] = [
                {"url": f"{_BACKPORT}/backport-heartbeat-period", "valueUnsignedInt": HEARTBEAT},
            ]
            channel["_payload"] = {
                "extension": [{"url": f"{_BACKPORT}/backport-payload-content", "valueCode": self._payload}]
            }
        return resource


def _same(held: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether the server has what we want. Some servers answer without the headers: those hold secrets."""
    channel = held["channel"]
    return bool(
        held.get("criteria") == wanted["criteria"]
        and channel.get("payload") == wanted["channel"].get("payload")
        and channel.get("header", wanted["channel"]["header"]) == wanted["channel"]["header"]
    )
