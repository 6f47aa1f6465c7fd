"""The service over a real socket."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import httpx
import pytest

from auscult.bus.contract import Bus
from auscult.cds_hooks.server import run
from auscult.domain.finding import Result
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings

if TYPE_CHECKING:
    from conftest import Topic


def test_it_serves_until_it_is_stopped(topic: Topic, make_result: Callable[..., Result], tmp_path: Path) -> None:
    """It tells the port, answers a hook, says nothing about its software, and ends when told."""
    topic.publish(make_result())
    stop, ports = threading.Event(), queue.Queue[int]()
    settings = Settings(hooks_port=0, home=tmp_path)
    server = threading.Thread(target=run, args=(settings, topic, stop, ports.put))
    server.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{ports.get(timeout=10)}") as client:
            topic.wait()
            answer = client.post(
                "/cds-services/auscult-patient-view",
                json={
                    "hook": "patient-view",
                    "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea",
                    "context": {"userId": "Practitioner/abc", "patientId": "42"},
                },
            )
    finally:
        stop.set()
        server.join(20)
    assert not server.is_alive()
    assert len(answer.json()["cards"]) == 1
    assert "server" not in answer.headers


def test_without_registered_clients_nothing_is_served_beyond_loopback(topic: Topic) -> None:
    """Cards tell of patients: the start is refused, and the error says what to register or to confirm."""
    with pytest.raises(RefuseToStart, match="AUSCULT_HOOKS_CLIENTS"):
        run(Settings(hooks_host="0.0.0.0", hooks_port=0), cast("Bus", topic), threading.Event())


def test_an_address_in_use_is_refused(topic: Topic) -> None:
    """The error names the setting to change."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings = Settings(hooks_port=other.getsockname()[1])
        with pytest.raises(RefuseToStart, match="AUSCULT_HOOKS_PORT"):
            run(settings, cast("Bus", topic), threading.Event())
