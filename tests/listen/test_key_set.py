"""Our public keys at a URL: what is served is what the file holds now, and nothing of it is secret."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from auscult.bus.sqlite import SqliteBus
from auscult.entrypoints import record_in
from auscult.listen.http_server import HttpServer
from auscult.listen.key_set import PLACE
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings
from auscult.publish.fhir.keys import add_key, public_keys


def test_an_authorization_server_follows_our_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is added is there at the next reading, without a restart; a broken file is said to be away."""
    keys = tmp_path / "keys.json"
    add_key(keys, "ES384")
    ports: list[int] = []

    class Told(HttpServer):
        def start(self) -> int:
            ports.append(super().start())
            return ports[0]

    monkeypatch.setattr(record_in, "HttpServer", Told)
    settings = Settings(home=tmp_path, fhir_notify_port=0, fhir_smart_serve_keys=True, fhir_smart_keys=keys)
    stop = threading.Event()
    with closing(SqliteBus(tmp_path / "bus.db")) as bus, record_in.listen_to_record(settings, bus, stop):
        url = f"http://127.0.0.1:{ports[0]}{PLACE}"
        for _ in range(2):
            answer = httpx.get(url)
            assert answer.headers["content-type"] == "application/jwk-set+json"
            assert answer.headers["cache-control"] == "public, max-age=300"
            assert answer.json() == public_keys(keys)
            private = [key["d"] for key in json.loads(keys.read_text())["keys"]]
            assert not any(secret in answer.text for secret in private)
            add_key(keys, "RS384")
        keys.write_text("{")
        assert httpx.get(url).status_code == 503


def test_there_have_to_be_keys_to_serve(tmp_path: Path) -> None:
    """Else the setting means something that is not there."""
    settings = Settings(home=tmp_path, fhir_smart_serve_keys=True)
    with (
        closing(SqliteBus(tmp_path / "bus.db")) as bus,
        pytest.raises(RefuseToStart, match="smart-keys-missing"),
        record_in.listen_to_record(settings, bus, threading.Event()),
    ):
        pass
