"""Starts the services as separate processes, waits until they serve, and ends them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from auscult.entrypoints.demo.study import DemoError
from auscult.entrypoints.service import ready_file
from auscult.platform.settings import Settings

SERVICES = ("fhir-sandbox", "inference", "cds-hooks", "listen", "pathways")
START_SECONDS = 60.0
STOP_SECONDS = 15.0


def free_port() -> int:
    """Return a port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def demo_settings(home: Path, models: Path, systems: Mapping[str, str]) -> Settings:
    """Return settings for one machine: free loopback ports, all files below `home`."""
    inference = f"127.0.0.1:{free_port()}"
    hooks = free_port()
    return Settings(
        home=home,
        model_repository=models,
        dicom_port=free_port(),
        dicomweb_port=free_port(),
        inference_listen=inference,
        inference_target=inference,
        fhir_base=f"http://127.0.0.1:{free_port()}/fhir",
        hooks_port=hooks,
        hooks_public_url=f"http://127.0.0.1:{hooks}",
        patient_identifier_systems=dict(systems),
        settle_seconds=1.0,
    )


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment in which `auscult` reads `settings`."""
    given = settings.model_dump(mode="json", exclude_unset=True)
    values = {
        f"AUSCULT_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in given.items()
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith("AUSCULT_")}
    return others | values


@dataclass
class Process:
    """One service that runs."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """DemoError where the process has ended, with the last lines that it wrote."""
        if self.popen.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])
            raise DemoError("service-ended", f"the service {self.name} ended with {self.popen.returncode}:\n{tail}")

    def stop(self) -> None:
        """Ask it to end, and make it end."""
        self.popen.terminate()
        try:
            self.popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


@dataclass
class Services:
    """The running services by name."""

    settings: Settings
    processes: dict[str, Process] = field(default_factory=dict)

    def start(self, name: str) -> Process:
        """Start service `name`; its output goes to a log file in the home."""
        log = self.settings.home / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        ready_file(self.settings, name).unlink(missing_ok=True)
        with log.open("ab") as output:
            popen = subprocess.Popen(  # noqa: S603 - our own command line
                [sys.executable, "-m", "auscult.entrypoints.cli", name],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=environment(self.settings),
            )
        self.processes[name] = Process(name, popen, log)
        return self.processes[name]

    def wait_ready(self, names: tuple[str, ...]) -> Iterator[str]:
        """Yield each service as it becomes ready."""
        waiting = list(names)
        end = time.monotonic() + START_SECONDS
        while waiting:
            for name in list(waiting):
                self.processes[name].check()
                if self._is_ready(name):
                    waiting.remove(name)
                    yield name
            if time.monotonic() > end:
                raise DemoError("not-ready", f"not ready after {START_SECONDS:.0f} s: {', '.join(waiting)}")
            time.sleep(0.05)

    def _is_ready(self, name: str) -> bool:
        if name == "fhir-sandbox":
            with suppress(httpx.HTTPError):
                return httpx.get(f"{self.settings.fhir_base}/metadata").is_success
            return False
        return ready_file(self.settings, name).exists()


@contextmanager
def running(settings: Settings, names: Sequence[str] = SERVICES) -> Iterator[Services]:
    """Start services; end all that run when the block ends, however it ends."""
    services = Services(settings)
    try:
        for name in names:
            services.start(name)
        yield services
    finally:
        for process in reversed(services.processes.values()):
            process.stop()
