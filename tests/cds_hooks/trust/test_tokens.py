"""A call is let in by its client's token alone, once, and a token decides nothing about whom we ask."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from auscult.bus.sqlite import SqliteBus
from auscult.cds_hooks.app import create_app
from auscult.cds_hooks.store import CardStore
from auscult.cds_hooks.trust import keys
from auscult.cds_hooks.trust.gate import Gate
from auscult.cds_hooks.trust.replay import ReplayGuard
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings

ISS = "https://ehr.example.org"
PUBLIC = "https://hooks.example.org"
SERVICE = "/cds-services/auscult-patient-view"
FHIR = "https://fhir.example.org/r4"
EC = ec.generate_private_key(ec.SECP384R1())
RSA = rsa.generate_private_key(65537, 2048)
OTHER = ec.generate_private_key(ec.SECP384R1())
BODY = {
    "hook": "patient-view",
    "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea",
    "context": {"userId": "Practitioner/abc", "patientId": "42"},
}


def public(key: Any, kid: str, **more: str) -> dict[str, Any]:
    """Return a key's public JWK."""
    kind = ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else RSAAlgorithm
    return json.loads(kind.to_jwk(key.public_key())) | {"kid": kid} | more


class KeyServer:
    """A client's JWKS endpoint on loopback that counts what it is asked."""

    def __init__(self) -> None:
        self.keys = [public(EC, "ec"), public(RSA, "rsa")]
        self.asked: list[str] = []
        self.status = 200
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                body = json.dumps({"keys": server.keys}).encode()
                self.send_response(server.status)
                if server.status == 302:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/jwks"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def key_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyServer]:
    """Return a running JWKS endpoint, for which a loaded machine has time."""
    monkeypatch.setattr(keys, "PATIENCE", 30.0)
    monkeypatch.setattr(keys, "TIMEOUT", 30.0)
    server = KeyServer()
    yield server
    server.close()


@pytest.fixture
def settings(tmp_path: Path, key_server: KeyServer) -> Settings:
    """Return settings with one registered client."""
    path = tmp_path / "clients.yaml"
    client = {"name": "north", "tenant": "north", "iss": ISS, "jku": [key_server.url], "fhir_bases": [FHIR]}
    path.write_text(yaml.safe_dump({"clients": [client]}))
    return Settings(hooks_clients=path, hooks_public_url=PUBLIC)


class Replica:
    """The application of one replica, on one event loop."""

    def __init__(self, settings: Settings, guard: ReplayGuard | None = None) -> None:
        self.gate = Gate(settings, guard)
        self.app = create_app(CardStore(PUBLIC), settings, Path(), self.gate)
        self.loop = asyncio.new_event_loop()

    def call(self, token: str | None, path: str = SERVICE, **more: Any) -> httpx.Response:
        """Send one call."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://hooks") as client:
                return await client.post(path, **{"json": BODY, "headers": headers} | more)

        return self.loop.run_until_complete(send())


@pytest.fixture
def make_replica() -> Iterator[Callable[..., Replica]]:
    """Return a function that makes a replica."""
    made = []

    def make(*given: Any) -> Replica:
        made.append(Replica(*given))
        return made[-1]

    yield make
    for replica in made:
        replica.loop.close()


@pytest.fixture
def replica(make_replica: Callable[..., Replica], settings: Settings) -> Replica:
    """Return a replica without a bus."""
    return make_replica(settings)


_number = iter(range(10**9))


def claims(**changes: Any) -> dict[str, Any]:
    """Return valid claims with `changes`; ... removes one."""
    now = int(time.time())
    valid = {"iss": ISS, "aud": f"{PUBLIC}{SERVICE}", "iat": now, "exp": now + 300, "jti": f"token-{next(_number)}"}
    return {name: value for name, value in (valid | changes).items() if value is not ...}


def token(
    key: Any = EC, kid: str = "ec", alg: str = "ES384", headers: dict[str, Any] | None = None, **changes: Any
) -> str:
    """Sign claims."""
    return jwt.encode(claims(**changes), key, algorithm=alg, headers={"kid": kid} | (headers or {}))


def sealed(header: str, payload: str, key: Any = EC) -> str:
    """Sign raw texts as header and payload, as no library would."""
    signing = ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in (header, payload))
    signature = jwt.algorithms.get_default_algorithms()["ES384"].sign(signing.encode(), key)
    return f"{signing}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


@pytest.mark.parametrize(
    "make",
    [
        token,
        lambda: token(RSA, "rsa", "RS384"),
        lambda: token(aud=["https://other.example.org", f"{PUBLIC}{SERVICE}"]),
        lambda: token(nbf=int(time.time())),
        lambda: token(tenant="anything", sub="anyone"),
    ],
)
def test_a_registered_client_s_token_lets_its_call_in(replica: Replica, make: Callable[[], str]) -> None:
    """ES384 and RS384 tokens with the demanded claims are accepted; what else they say does not matter."""
    assert replica.call(make()).status_code == 200


def _tampered() -> str:
    head, _, sign = token().split(".")
    return ".".join((head, token(iss=ISS).split(".")[1], sign))


def _pem() -> str:
    pem = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    header = {"alg": "HS384", "kid": "rsa", "typ": "JWT"}
    signing = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, claims())
    )
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA384).sign(signing.encode(), pem)
    return f"{signing}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


HEADER = '{"alg":"ES384","kid":"ec","typ":"JWT"}'
MUTANTS: dict[str, Callable[[], str | None]] = {
    "no token": lambda: None,
    "empty": lambda: "",
    "two parts": lambda: token().rpartition(".")[0],
    "four parts": lambda: f"{token()}.x",
    "no signature": lambda: token().rpartition(".")[0] + ".",
    "alg none": lambda: jwt.encode(claims(), None, algorithm="none", headers={"kid": "ec"}),
    "public key as HMAC secret": _pem,
    "another's key": lambda: token(OTHER),
    "payload of another token": _tampered,
    "signature cut": lambda: token()[:-8],
    "RS256": lambda: token(RSA, "rsa", "RS256"),
    "key of the other algorithm": lambda: token(RSA, "ec", "RS384"),
    "kid missing": lambda: sealed('{"alg":"ES384","typ":"JWT"}', json.dumps(claims())),
    "kid unknown": lambda: token(kid="gone"),
    "kid a number": lambda: sealed('{"alg":"ES384","typ":"JWT","kid":7}', json.dumps(claims())),
    "kid a path": lambda: token(kid="../../etc/passwd"),
    "typ another": lambda: token(headers={"typ": "at+jwt"}),
    "crit": lambda: sealed('{"alg":"ES384","kid":"ec","typ":"JWT","crit":["exp"]}', json.dumps(claims())),
    "jwk of its own": lambda: token(OTHER, headers={"jwk": public(OTHER, "ec")}),
    "jku elsewhere": lambda: token(headers={"jku": "https://evil.example.org/jwks"}),
    "x5u": lambda: token(headers={"x5u": "https://evil.example.org/cert"}),
    "iss unknown": lambda: token(iss="https://evil.example.org"),
    "iss missing": lambda: token(iss=...),
    "iss with a slash more": lambda: token(iss=f"{ISS}/"),
    "iss a list": lambda: sealed(HEADER, json.dumps(claims() | {"iss": [ISS]})),
    "aud missing": lambda: token(aud=...),
    "aud another service": lambda: token(aud=f"{PUBLIC}/cds-services/other"),
    "aud a prefix": lambda: token(aud=PUBLIC),
    "aud empty list": lambda: token(aud=[]),
    "expired": lambda: token(iat=int(time.time()) - 600, exp=int(time.time()) - 60),
    "exp missing": lambda: token(exp=...),
    "exp a text": lambda: sealed(HEADER, json.dumps(claims() | {"exp": "9999999999"})),
    "exp infinite": lambda: sealed(HEADER, json.dumps(claims())[:-1] + ',"x":Infinity}'),
    "exp in years": lambda: token(exp=int(time.time()) + 10**8),
    "iat missing": lambda: token(iat=...),
    "iat in the future": lambda: token(iat=int(time.time()) + 600, exp=int(time.time()) + 900),
    "nbf in the future": lambda: token(nbf=int(time.time()) + 600),
    "jti missing": lambda: token(jti=...),
    "jti empty": lambda: token(jti=""),
    "a claim twice": lambda: sealed(HEADER, json.dumps(claims())[:-1] + f',"iss":"{ISS}"}}'),
    "payload a list": lambda: sealed(HEADER, "[]"),
    "payload no JSON": lambda: sealed(HEADER, "{"),
    "payload nested": lambda: sealed(HEADER, "[" * 6000),
    "too long": lambda: token(jti="x" * 500, padding="y" * 9000),
    "in the middle of words": lambda: f"{token()} {token()}",
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_any_other_token_gets_a_bare_401(replica: Replica, mutant: str, caplog: pytest.LogCaptureFixture) -> None:
    """A token that is not exactly as demanded gets 401 with no body, and is not in the log."""
    caplog.set_level(logging.DEBUG)
    made = MUTANTS[mutant]()
    answer = replica.call(made)
    assert answer.status_code == 401
    assert answer.content == b""
    assert answer.headers["www-authenticate"] == "Bearer"
    if made:
        assert made not in caplog.text


@pytest.mark.parametrize("header", ["Basic dTpw", "Bearer", "bearer  ", "Token {}", "{}"])
def test_another_authorization_scheme_gets_a_bare_401(replica: Replica, header: str) -> None:
    """Only a bearer token counts."""
    answer = replica.call(None, headers={"authorization": header.format(token())})
    assert (answer.status_code, answer.content) == (401, b"")


@pytest.mark.parametrize("host", ["a/cds-services/other?", "[", "a b", "%", "x" * 9000])
def test_the_host_header_has_no_say_in_the_audience(replica: Replica, host: str) -> None:
    """What the token is for is held against the configured URL and the path; a Host that is none breaks nothing."""
    headers = {"authorization": f"Bearer {token(aud=f'{PUBLIC}/cds-services/other')}", "host": host}
    assert replica.call(None, headers=headers).status_code == 401
    assert replica.call(None, headers=headers | {"authorization": f"Bearer {token()}"}).status_code == 200


def test_keys_outlive_a_change_of_the_clients_file(
    replica: Replica, key_server: KeyServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that registers another EHR while the key server of the first is away locks nobody out."""
    assert replica.call(token()).status_code == 200
    key_server.status = 500
    monkeypatch.setattr("auscult.cds_hooks.trust.gate.LOOK", 0.0)
    assert settings.hooks_clients
    content = yaml.safe_load(settings.hooks_clients.read_text())
    content["clients"].append(content["clients"][0] | {"name": "south", "iss": "https://south.example.org"})
    settings.hooks_clients.write_text(yaml.safe_dump(content))
    assert replica.call(token()).status_code == 200
    assert replica.call(token(iss="https://south.example.org")).status_code == 200


def test_discovery_needs_no_token_and_feedback_does(replica: Replica) -> None:
    """Whoever integrates can discover; feedback takes a token for its own URL or the service's."""
    outcome = {"card": "c", "outcome": "overridden", "outcomeTimestamp": "2026-01-31T12:00:00Z"}
    path = f"{SERVICE}/feedback"
    for audience in (path, SERVICE):
        call = replica.call(token(aud=f"{PUBLIC}{audience}"), path, json={"feedback": [outcome]})
        assert call.status_code == 200
    assert replica.call(None, path, json={"feedback": [outcome]}).status_code == 401
    assert replica.call(token(aud=f"{PUBLIC}{path}")).status_code == 401


ELSEWHERE = [
    "http://127.0.0.1:{port}/r4",
    "http://localhost:{port}/r4",
    "http://[::1]:{port}/r4",
    "http://2130706433:{port}/r4",
    "http://0x7f.1:{port}/r4",
    "http://0177.0.0.1:{port}/r4",
    "http://127.1:{port}/r4",
    "http://[::ffff:127.0.0.1]:{port}/r4",
    "https://fhir.example.org@127.0.0.1:{port}/r4",
    "https://fhir.example.org:{port}/r4",
    "https://fhir.example.org.evil.example/r4",
    "https://fhir.example.org/r4/../../admin",
    "https://fhir.example.org/r4%2f..",
    "https://fhir.example.org./r4",
    "https://fhir.example.org/r4#@127.0.0.1:{port}",
    "https://fhir.example.org/r4?x=1",
    "https://FHIR.example.org/r4",
    "http://fhir.example.org/r4",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/_",
    "http://169.254.169.254/latest/meta-data",
    "https://fhir。example。org/r4",
    "//127.0.0.1:{port}/r4",
    "",
]


@pytest.mark.parametrize("url", ELSEWHERE)
def test_a_fhir_server_that_is_not_the_client_s_gets_a_bare_401_and_no_connection(replica: Replica, url: str) -> None:
    """`fhirServer` has to be a base that was registered for the issuer; nothing is sent anywhere else."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0)
        named = url.format(port=trap.getsockname()[1])
        answer = replica.call(token(), json=BODY | {"fhirServer": named})
        assert (answer.status_code, answer.content) == (401, b"")
        with pytest.raises(BlockingIOError):
            trap.accept()
    assert replica.call(token(), json=BODY | {"fhirServer": FHIR}).status_code == 200


@pytest.mark.parametrize("where", ["iss", "jku"])
def test_a_token_does_not_decide_whom_we_ask_for_keys(replica: Replica, key_server: KeyServer, where: str) -> None:
    """Issuer and key set are held against the registered ones before anything is fetched."""
    evil = key_server.url.replace("/jwks", "/evil")
    made = token(iss=evil) if where == "iss" else token(headers={"jku": evil})
    assert replica.call(made).status_code == 401
    assert key_server.asked == []


def test_keys_are_fetched_once_and_anew_for_an_unknown_key(
    replica: Replica, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known keys cost no fetch; a rotated key is found without a restart; made-up key ids cause no flood."""
    for _ in range(3):
        assert replica.call(token()).status_code == 200
    assert len(key_server.asked) == 1
    monkeypatch.setattr(keys, "PAUSE", 0.0)
    key_server.keys.append(public(OTHER, "new"))
    assert replica.call(token(OTHER, "new")).status_code == 200
    assert len(key_server.asked) == 2
    monkeypatch.setattr(keys, "PAUSE", 60.0)
    for each in range(5):
        assert replica.call(token(kid=f"made-up-{each}")).status_code == 401
    assert len(key_server.asked) == 2


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_key_set_that_cannot_be_had_lets_nobody_in_and_known_keys_go_on(
    replica: Replica, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """A redirect is not followed; keys fetched before serve on while their server fails."""
    monkeypatch.setattr(keys, "PAUSE", 0.0)
    key_server.status = status
    assert replica.call(token()).status_code == 401
    assert key_server.asked == ["/jwks"]
    key_server.status = 200
    assert replica.call(token()).status_code == 200
    key_server.status = status
    assert replica.call(token(kid="unknown")).status_code == 401
    assert replica.call(token()).status_code == 200


@pytest.mark.parametrize(
    "bad",
    [
        public(rsa.generate_private_key(65537, 1024), "ec"),  # noqa: S505 - the point of it
        public(EC, "ec", use="enc"),
        public(EC, "ec", alg="ES256"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "ec"},
        {"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA", "kid": "ec"},
        {"kid": "ec"},
    ],
)
def test_a_key_that_is_not_fit_for_signing_is_passed_over(
    replica: Replica, key_server: KeyServer, bad: dict[str, Any]
) -> None:
    """Short RSA keys, encryption keys, symmetric keys and points off the curve verify nothing; the others do."""
    key_server.keys = [bad, public(RSA, "rsa")]
    assert replica.call(token()).status_code == 401
    assert replica.call(token(RSA, "rsa", "RS384")).status_code == 200


def test_a_token_is_good_for_one_call_on_all_replicas(
    settings: Settings, tmp_path: Path, make_replica: Callable[..., Replica]
) -> None:
    """The second use of a token is refused, by the replica that saw it and by another."""
    bus = SqliteBus(tmp_path / "bus.db")
    guards = [ReplayGuard(bus), ReplayGuard(bus)]
    for guard in guards:
        guard.start()
    first, second = (make_replica(settings, guard) for guard in guards)
    try:
        used = token()
        assert first.call(used).status_code == 200
        assert first.call(used).status_code == 401
        assert second.call(used).status_code == 401
        assert second.call(token()).status_code == 200
    finally:
        for guard in guards:
            guard.close()
        bus.close()


def test_a_client_that_calls_too_often_is_told_when_it_may_again(
    settings: Settings, make_replica: Callable[..., Replica]
) -> None:
    """Above twice the rate at once a client gets 429 with Retry-After, an OperationOutcome for its log."""
    assert settings.hooks_clients
    content = yaml.safe_load(settings.hooks_clients.read_text())
    content["clients"][0]["per_second"] = 0.01
    settings.hooks_clients.write_text(yaml.safe_dump(content))
    replica = make_replica(settings)
    answers = [replica.call(token()) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 429, 429]
    assert int(answers[1].headers["retry-after"]) > 0
    assert answers[1].json()["resourceType"] == "OperationOutcome"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"iss": ...}, "iss"),
        ({"jku": ...}, "jku"),
        ({"jwks": {"keys": []}, "jku": ...}, "jwks"),
        ({"fhir_bases": ...}, "fhir_bases"),
        ({"fhir_bases": ["http://fhir.example.org"]}, "fhir_bases"),
        ({"fhir_bases": ["https://user@fhir.example.org"]}, "fhir_bases"),
        ({"profile": "acme"}, "profile"),
        ({"algorithms": ["HS256"]}, "algorithms"),
        ({"unheard": 1}, "unheard"),
    ],
)
def test_clients_that_cannot_be_used_are_named_at_the_start(
    settings: Settings, changes: dict[str, Any], named: str
) -> None:
    """A mistake in the clients' file ends the process before it serves, and the text says where it is."""
    assert settings.hooks_clients
    content = yaml.safe_load(settings.hooks_clients.read_text())
    client = content["clients"][0] | changes
    content["clients"] = [{name: value for name, value in client.items() if value is not ...}]
    settings.hooks_clients.write_text(yaml.safe_dump(content))
    with pytest.raises(RefuseToStart, match=named):
        Gate(settings)
