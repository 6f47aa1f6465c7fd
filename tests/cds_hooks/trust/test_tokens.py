"""A call is let in by its client's token alone, once, and a token decides nothing about whom we ask."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa

from auscult.bus.sqlite import SqliteBus
from auscult.cds_hooks.app import create_app
from auscult.cds_hooks.server import run
from auscult.cds_hooks.store import CardStore
from auscult.cds_hooks.trust import keys, replay
from auscult.cds_hooks.trust.gate import Gate
from auscult.cds_hooks.trust.replay import ReplayGuard
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings
from hostile_tokens import (
    BODY,
    EC,
    ELSEWHERE,
    FHIR,
    ISS,
    MUTANTS,
    OTHER,
    PUBLIC,
    RSA,
    SERVICE,
    KeyServer,
    public,
    token,
)


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


def test_keys_are_fetched_when_the_service_starts(replica: Replica, key_server: KeyServer) -> None:
    """The first call does not wait for a key server that is slower than a call may be."""
    moves = iter(("startup", "shutdown"))

    async def receive() -> dict[str, str]:
        move = next(moves)
        if move == "shutdown":
            await asyncio.to_thread(key_server.reached.wait, 30)
        return {"type": f"lifespan.{move}"}

    async def send(_: object) -> None: ...

    replica.loop.run_until_complete(replica.app({"type": "lifespan"}, receive, send))
    assert replica.call(token()).status_code == 200
    assert key_server.asked == ["/jwks"]


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
    settings: Settings, tmp_path: Path, make_replica: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second use of a token is refused, by the replica that saw it and by another."""
    monkeypatch.setattr(replay, "PATIENCE", 30.0)
    bus = SqliteBus(tmp_path / "bus.db")
    guards = [ReplayGuard(bus), ReplayGuard(bus)]
    assert not guards[0].ready
    for guard in guards:
        guard.start()
    first, second = (make_replica(settings, guard) for guard in guards)
    try:
        used = token()
        assert first.call(used).status_code == 200
        assert first.call(used).status_code == 401
        assert second.call(used).status_code == 401
        assert second.call(token()).status_code == 200
        assert guards[0].ready
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


class Outbound:
    """What a process tries to reach while this is in force: nothing may be, and it is kept what was tried."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tried: list[object] = []

        def refuse(*given: object, **_: object) -> None:
            self.tried.append(given)
            raise OSError("no connection is made here")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket.socket, "connect_ex", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_no_attack_gets_through_the_server_or_makes_it_connect(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP each mutant and each other FHIR server is a bare 401, and nothing is resolved or connected to."""
    served, stop, ports = settings.model_copy(update={"hooks_port": 0, "home": tmp_path}), threading.Event(), Queue()
    with closing(SqliteBus(tmp_path / "bus.db")) as bus:
        server = threading.Thread(target=run, args=(served, bus, stop, ports.put))
        server.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{ports.get(timeout=20)}", timeout=20) as ehr:

                def ask(given: str | None, body: object = BODY) -> httpx.Response:
                    headers = {} if given is None else {"authorization": f"Bearer {given}".strip()}
                    return ehr.post(SERVICE, json=body, headers=headers)

                assert ask(token()).status_code == 200  # the keys are fetched, the connection is open
                monkeypatch.setattr(keys, "PAUSE", 1e9)
                outbound = Outbound(monkeypatch)
                answers = [ask(make()) for make in MUTANTS.values()]
                answers += [ask(token(), BODY | {"fhirServer": url.format(port=9)}) for url in ELSEWHERE]
                assert {(each.status_code, each.content) for each in answers} == {(401, b"")}
                assert len({tuple(sorted(each.headers)) for each in answers}) == 1
                assert outbound.tried == []
                assert ask(token()).status_code == 200
        finally:
            monkeypatch.undo()
            stop.set()
            server.join(20)
    assert len(MUTANTS) >= 25
    assert len(ELSEWHERE) >= 20
