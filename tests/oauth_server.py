"""A strict authorization server in front of a FHIR server, as SMART Backend Services says one has to be."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import jwt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from auscult.publish.fhir.sandbox import create_app

FORM = "application/x-www-form-urlencoded"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass
class OAuthServer:
    """Gives tokens at `/fhir/token` for assertions by `keys`, and lets only their bearers into the sandbox."""

    base: str = ""
    client_id: str = "auscult"
    keys: dict[str, Any] = field(default_factory=dict)
    """The public JWK set that was registered."""
    life: int = 300
    advertised: dict[str, Any] | None = None
    """Beyond the token endpoint; None: there is no smart-configuration, but a CapabilityStatement."""
    broken: int = 0
    """Token requests that fail with 503."""
    revoked: set[str] = field(default_factory=set)
    tokens: list[str] = field(default_factory=list)
    scopes: list[str] = field(default_factory=list)
    kids: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def app(self) -> Any:
        """Return the application."""
        sandbox = create_app()

        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            given = dict(scope.get("headers", ())).get(b"authorization", b"").decode().removeprefix("Bearer ")
            if given not in self.tokens or given in self.revoked:
                await JSONResponse({"resourceType": "OperationOutcome", "issue": []}, 401)(scope, receive, send)
                return
            await sandbox({**scope, "path": scope["path"], "root_path": ""}, receive, send)

        return Starlette(
            routes=[
                Route("/fhir/.well-known/smart-configuration", self._configuration),
                Route("/fhir/metadata", self._metadata),
                Route("/fhir/token", self._token, methods=["POST"]),
                Mount("/", guarded),
            ]
        )

    async def _configuration(self, _: Request) -> Response:
        if self.advertised is None:
            return Response(status_code=404)
        return JSONResponse({"token_endpoint": f"{self.base}/token", **self.advertised})

    async def _metadata(self, _: Request) -> Response:
        url = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
        oauth = {"url": url, "extension": [{"url": "token", "valueUri": f"{self.base}/token"}]}
        return JSONResponse({"resourceType": "CapabilityStatement", "rest": [{"security": {"extension": [oauth]}}]})

    async def _token(self, request: Request) -> Response:
        if self.broken:
            self.broken -= 1
            return Response("<html>busy</html>", 503, headers={"Retry-After": "7"})
        form = dict(parse_qsl((await request.body()).decode(), strict_parsing=True))
        try:
            self._check(request, form)
        except (jwt.PyJWTError, ValueError, KeyError, AssertionError) as problem:
            self.refused.append(repr(problem))
            return JSONResponse({"error": "invalid_client"}, 401)
        token = f"secret-{uuid.uuid4()}"
        self.tokens.append(token)
        self.scopes.append(form["scope"])
        return JSONResponse(
            {"access_token": token, "token_type": "bearer", "expires_in": self.life, "scope": form["scope"]},
            headers={"Cache-Control": "no-store"},
        )

    def _check(self, request: Request, form: dict[str, str]) -> None:
        assert request.headers["content-type"] == FORM
        assert form["grant_type"] == "client_credentials"
        assert form["client_assertion_type"] == ASSERTION
        assertion = form["client_assertion"]
        header = jwt.get_unverified_header(assertion)
        assert header["alg"] in {"ES384", "RS384"}
        assert header["typ"] == "JWT"
        (key,) = (key for key in self.keys["keys"] if key["kid"] == header["kid"])
        assert "d" not in key
        claims = jwt.decode(
            assertion,
            jwt.PyJWK(key),
            algorithms=[header["alg"]],
            audience=f"{self.base}/token",
            issuer=self.client_id,
            options={"require": ["iss", "sub", "aud", "exp", "jti"], "strict_aud": True},
        )
        assert claims["sub"] == self.client_id
        assert claims["exp"] <= time.time() + 300
        assert claims["jti"] not in self._seen
        self._seen.add(claims["jti"])
        self.kids.append(header["kid"])
