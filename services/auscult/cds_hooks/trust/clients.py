"""The EHRs that may call, as the site registered them in one YAML file (`AUSCULT_HOOKS_CLIENTS`).

```yaml
clients:
  - name: north-ehr                                   # in logs and metrics
    iss: https://ehr.north.example.org                # of its tokens
    jku: [https://ehr.north.example.org/jwks.json]    # or `jwks: {keys: [...]}` in place
    fhir_bases: [https://fhir.north.example.org/r4]   # the only values of `fhirServer` that are accepted
```
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from auscult.cds_hooks.trust.keys import read_keys
from auscult.platform.errors import RefuseToStart

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def _absolute(url: str) -> str:
    """Return `url` without a trailing slash; ValueError where no request may go there."""
    parts = urlsplit(url)
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    if not secure or not parts.hostname or "@" in parts.netloc or parts.fragment or parts.query:
        raise ValueError("must be an https URL without user, query or fragment (http on loopback alone)")
    return url.rstrip("/")


def _usable(jwks: dict[str, Any]) -> bool:
    try:
        return bool(read_keys(jwks))
    except msgspec.DecodeError:
        return False


class Client(BaseModel):
    """One registered EHR tenant. Immutable; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    tenant: str = Field("", pattern=r"^[A-Za-z0-9._-]{0,64}$")
    """Whose cards it sees; empty: `AUSCULT_TENANT`."""
    iss: str = Field(min_length=1, max_length=512)
    """Exactly as in its tokens."""
    tenant_claim: str | None = None
    """Value of the token's `tenant`, where one issuer serves several tenants."""
    jku: tuple[str, ...] = ()
    """Where its keys are. A token may name one of these; without, the first is asked."""
    jwks: dict[str, Any] | None = None
    """Its keys, in place of `jku`."""
    fhir_bases: tuple[str, ...]
    """Its FHIR servers; no other is accepted as `fhirServer`, none is called."""
    audiences: tuple[str, ...] = ()
    """Accepted values of `aud`. Default: the URL of the endpoint that is called."""
    algorithms: tuple[Literal["ES384", "RS384", "ES256", "RS256"], ...] = ("ES384", "RS384")
    """The specification recommends the default ones."""
    max_lifetime: float = Field(3600, gt=0, le=86400)
    """Seconds between a token's `iat` and `exp`. Each is remembered for so long."""
    services: tuple[str, ...] | None = None
    """Ids of the services it may call; default: all."""
    profile: Literal["none", "epic", "oracle"] = "none"
    """What this vendor's EHR understands beyond, or short of, the specification."""
    triggers: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Epic: pathways whose cards are shown at a trigger action, e.g. `{"60": [lung_nodule]}`; others show all."""
    orders: dict[str, str] = Field(default_factory=dict)
    """Epic: `system|code` of an order to the site's preference list item."""
    links: tuple[str, ...] = ()
    """Oracle: the links that are registered; others are left out. Empty: all are sent."""
    system_actions: bool = False
    """Whether it gets `systemActions`, which its EHR may apply without asking."""
    per_second: float = Field(100, gt=0)
    """Requests per second, on average; twice as many in a burst."""

    @field_validator("jku", "fhir_bases")
    @classmethod
    def _urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_absolute(url) for url in urls)

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> Client:
        if bool(self.jku) == bool(self.jwks):
            raise ValueError("give either `jku` or `jwks`")
        if self.jwks and not _usable(self.jwks):
            raise ValueError("`jwks` has no usable key: RSA of 2048 bits or more, or EC P-384, each with a `kid`")
        return self


class Clients(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clients: tuple[Client, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _told_apart(self) -> Clients:
        if len({client.name for client in self.clients}) < len(self.clients):
            raise ValueError("each client needs a name of its own")
        if len({(client.iss, client.tenant_claim) for client in self.clients}) < len(self.clients):
            raise ValueError("clients of one `iss` need different `tenant_claim`s")
        return self

    def find(self, iss: str, tenant: object) -> Client | None:
        """Return the client of these claims: the one registered for the tenant, or for the whole issuer."""
        of_issuer = {client.tenant_claim: client for client in self.clients if client.iss == iss}
        named = of_issuer.get(tenant) if isinstance(tenant, str) else None
        return named or of_issuer.get(None)


def read_clients(path: Path) -> Clients:
    """Read the file; RefuseToStart (`clients-invalid`) names each entry that cannot be used, never its value."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Clients.model_validate(content)
    except ValidationError as problem:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'file'}: {item['msg']}"
            for item in problem.errors(include_input=False)
        )
        raise RefuseToStart("clients-invalid", f"correct AUSCULT_HOOKS_CLIENTS: {wrong}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise RefuseToStart(
            "clients-invalid", f"AUSCULT_HOOKS_CLIENTS must name a readable YAML file ({type(problem).__name__})"
        ) from None
