"""SMART Backend Services, against a server that checks what the standard says it has to."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from auscult.entrypoints.cli import main
from auscult.platform.errors import AuscultError, DeadLetter, RefuseToStart, Retry
from auscult.platform.settings import Settings
from auscult.publish.fhir.client import FhirClient
from auscult.publish.fhir.keys import add_key, public_keys, remove_key, signing_keys
from auscult.publish.fhir.smart import BackendServices, fhir_client
from fhir_samples import Server
from oauth_server import OAuthServer

V2 = {"capabilities": ["permission-v2", "client-confidential-asymmetric"]}


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        """Return seconds."""
        return self.now


class Site:
    """An OAuth server, our keys, and a client."""

    def __init__(self, server: Server, keys: Path) -> None:
        self.oauth = OAuthServer(base=server.base, advertised=dict(V2))
        server.app = self.oauth.app()
        self.keys = keys
        add_key(keys, "ES384")
        self.oauth.keys = public_keys(keys)
        self.clock = Clock()
        self.tokens = BackendServices(server.base, "auscult", keys, clock=self.clock)
        self.client = FhirClient(server.base, 5, tokens=self.tokens)

    def read(self) -> None:
        """Ask the FHIR server for something that is not there."""
        assert self.client.read("Patient", "nobody") is None

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
        self.tokens.close()


@pytest.fixture
def site(server: Server, tmp_path: Path) -> Iterator[Site]:
    """Return a site whose server knows our key."""
    site = Site(server, tmp_path / "keys.json")
    yield site
    site.close()


@pytest.mark.parametrize("algorithm", ["ES384", "RS384"])
def test_token_is_asked_for_once_and_used(site: Site, algorithm: Any) -> None:
    """Both algorithms that the standard names; the assertion is checked strictly; one token serves until it ends."""
    add_key(site.keys, algorithm)
    site.oauth.keys = public_keys(site.keys)
    site.read()
    site.read()
    assert len(site.oauth.tokens) == 1
    assert site.oauth.refused == []


def test_scopes_are_the_least_and_as_the_server_writes_them(site: Site) -> None:
    """SMART 2 scopes where it understands them, else those of SMART 1; none has a wildcard."""
    site.read()
    assert "system/Patient.rs" in site.oauth.scopes[0].split()
    assert "*" not in site.oauth.scopes[0]
    assert "ServiceRequest" not in site.oauth.scopes[0]
    site.oauth.advertised = {}
    with (
        FhirClient(site.oauth.base, 5, tokens=BackendServices(site.oauth.base, "auscult", site.keys)) as client,
    ):
        client.read("Patient", "nobody")
        client._connection._tokens.close()  # type: ignore[union-attr]
    assert {"system/Patient.read", "system/Observation.write"} <= set(site.oauth.scopes[1].split())


def test_token_endpoint_is_found_by_the_capability_statement(site: Site) -> None:
    """Servers of SMART 1.0 have no smart-configuration."""
    site.oauth.advertised = None
    site.read()
    assert len(site.oauth.tokens) == 1


def test_token_is_renewed_before_it_ends(site: Site) -> None:
    """What is left of its life is for the requests on their way; each assertion is a new one."""
    site.read()
    site.clock.now += 239
    site.read()
    assert len(site.oauth.tokens) == 1
    site.clock.now += 2
    site.read()
    assert len(site.oauth.tokens) == 2
    assert site.oauth.refused == []


def test_token_that_still_holds_outlives_its_server(site: Site) -> None:
    """Between renewal and end the old token serves where no new one is to be had; after that, it is a Retry."""
    site.read()
    site.oauth.broken = 2
    site.clock.now += 250
    site.read()
    site.clock.now += 60
    with pytest.raises(Retry, match=r"smart-refused.*503") as caught:
        site.read()
    assert caught.value.after == 7
    site.read()
    assert len(site.oauth.tokens) == 2


def test_refused_token_is_renewed_once(site: Site) -> None:
    """A 401 may mean that the token was revoked; a second one means that we are not wanted."""
    site.read()
    site.oauth.revoked.add(site.oauth.tokens[0])
    site.read()
    assert len(site.oauth.tokens) == 2

    class All(set[str]):
        def __contains__(self, _: object) -> bool:
            return True

    site.oauth.revoked = All()
    with pytest.raises(DeadLetter, match="fhir-unauthorized"):
        site.read()
    assert len(site.oauth.tokens) == 3


def test_threads_share_one_renewal(site: Site) -> None:
    """Eight requests at once ask for one token."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: site.read(), range(8)))
    assert len(site.oauth.tokens) == 1


def test_keys_are_rotated_without_a_restart(site: Site) -> None:
    """A new key signs as soon as the server knows it, the one before until then; the old one can go."""
    site.read()
    (old,) = site.oauth.kids
    new = add_key(site.keys, "ES384")
    site.clock.now += 300
    site.read()
    assert site.oauth.kids == [old, old]
    assert len(site.oauth.refused) == 1
    site.oauth.keys = public_keys(site.keys)
    site.clock.now += 300
    site.read()
    remove_key(site.keys, old)
    site.clock.now += 300
    site.read()
    assert site.oauth.kids == [old, old, new, new]


@pytest.mark.parametrize("ahead", [600.0, -600.0])
def test_another_clock_than_the_servers_costs_one_request(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ahead: float
) -> None:
    """An assertion from the future, or one that has ended, is made again by the server's time; so is the next."""
    ours = SimpleNamespace(time=lambda: time.time() + ahead, monotonic=time.monotonic)
    monkeypatch.setattr("auscult.publish.fhir.smart.time", ours)
    for _ in range(2):
        site.read()
        site.clock.now += 300
    assert len(site.oauth.tokens) == 2
    assert len(site.oauth.refused) == 1
    assert "clock" in caplog.text


def test_keys_that_become_unreadable_are_kept(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is broken while the service runs takes nothing away, and is told."""
    site.keys.write_text("{")
    site.read()
    assert "AUSCULT_FHIR_SMART_KEYS" in caplog.text


def test_nothing_secret_is_said(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Neither token nor assertion nor private key is in a log, an error or a representation."""
    caplog.set_level(logging.DEBUG)
    site.read()
    said = [repr(site.tokens.__dict__), repr(site.client), caplog.text]
    site.oauth.keys = {"keys": []}
    site.clock.now += 1000
    try:
        site.read()
    except AuscultError as error:
        said.append(str(error))
    everything = " ".join(said)
    assert "invalid_client" in everything
    private = json.loads(site.keys.read_text())["keys"][0]["d"]
    for secret in (site.oauth.tokens[0], "eyJ", private):
        assert secret not in everything


def test_token_endpoint_elsewhere_has_to_be_configured(site: Site) -> None:
    """No request leaves for a host that nobody configured, whatever the FHIR server says."""
    site.oauth.advertised = {**V2, "token_endpoint": "https://elsewhere.example/token"}
    with pytest.raises(Retry, match="smart-foreign-token-endpoint"):
        site.read()
    configured = BackendServices(site.oauth.base, "auscult", site.keys, token_url=f"{site.oauth.base}/token")
    with FhirClient(site.oauth.base, 5, tokens=configured) as client:
        client.read("Patient", "nobody")
    configured.close()


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"access_token": "x\r\nHost: y", "token_type": "bearer"},
        {"access_token": "x", "token_type": "mac"},
        {"access_token": 7},
    ],
)
def test_answer_without_a_bearer_token_is_a_retry(tmp_path: Path, answer: dict[str, Any]) -> None:
    """What cannot be a token is not sent as one."""
    add_key(tmp_path / "keys", "ES384")

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=answer if request.method == "POST" else {"token_endpoint": "https://x/token"})

    tokens = BackendServices("https://x", "me", tmp_path / "keys", transport=httpx.MockTransport(handler))
    with pytest.raises(Retry, match="smart-malformed"):
        tokens.token(5)
    tokens.close()


def test_insecure_token_endpoint_is_refused(tmp_path: Path) -> None:
    """A token over plain HTTP to another machine is everybody's."""
    add_key(tmp_path / "keys", "ES384")
    with pytest.raises(RefuseToStart, match="smart-insecure"):
        BackendServices("http://x", "me", tmp_path / "keys", token_url="http://x/token")  # noqa: S106 - a place


@pytest.mark.parametrize("content", [None, "", "{}", '{"keys": [1]}', '{"keys": []}', '{"keys": [{"kty": "EC"}]}'])
def test_keys_that_cannot_sign_refuse_to_start(tmp_path: Path, content: str | None) -> None:
    """A site learns at the start, not at the first study."""
    if content is not None:
        (tmp_path / "keys").write_text(content)
    settings = Settings(fhir_smart_client_id="me", fhir_smart_keys=tmp_path / "keys")
    with pytest.raises(RefuseToStart, match="smart-keys-invalid"):
        fhir_client(settings)
    with pytest.raises(RefuseToStart, match="smart-keys-missing"):
        fhir_client(Settings(fhir_smart_client_id="me"))


def test_commands_make_publish_and_retire_keys(tmp_path: Path) -> None:
    """The file is its owner's alone; what is printed for the server holds nothing private."""
    file = str(tmp_path / "keys.json")

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(main, ["fhir", *arguments])
        assert done.exit_code == 0, done.output
        return done.output.strip()

    first, second = run("keygen", file), run("keygen", file, "--algorithm", "RS384")
    assert Path(file).stat().st_mode & 0o777 == 0o600
    published = json.loads(run("jwks", file))["keys"]
    assert [key["kid"] for key in published] == [first, second]
    assert not any({"d", "p", "q", "dp", "dq", "qi"} & key.keys() for key in published)
    assert [key.key_id for key in signing_keys(Path(file))] == [second, first]
    run("retire", file, first)
    for arguments in (["retire", file, second], ["retire", file, "nobody"], ["jwks", str(tmp_path / "none")]):
        failed = CliRunner().invoke(main, ["fhir", *arguments])
        assert failed.exit_code == 1
        assert "Traceback" not in failed.output
