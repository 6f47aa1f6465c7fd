"""Starts the real Kafka, HAPI FHIR, Orthanc and an S3 server on free loopback ports, and ends them by pid."""

from __future__ import annotations

import base64
import contextlib
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from auscult.entrypoints.demo.processes import free_port

HERE = Path(__file__).parent
STACK = HERE.parents[1] / ".cache" / "stack"
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
DICOMWEB_CLIENT = HERE.parents[1] / ".cache" / "dicomweb" / "bin" / "python"
"""An environment with the unmodified dicomweb-client; `prepare.sh` makes it."""
START_SECONDS = 120.0


class NotInstalled(RuntimeError):
    """A component of the suite is missing: the suite fails, it does not skip."""


def _template(source: Path, target: Path, **values: object) -> Path:
    text = source.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name.upper()}@", str(value))
    target.write_text(text)
    return target


@contextmanager
def _process(command: list[str], work: Path, ready: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
    work.mkdir(parents=True, exist_ok=True)
    log = work / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=work)
    try:
        end = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise RuntimeError(f"{command[0]} did not become ready:\n{tail}")
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, timeout=5).is_success
    return False


def _installed(path: Path) -> Path:
    if not path.exists():
        raise NotInstalled(f"{path} is missing: run integration/stack/prepare.sh")
    return path


class Kafka:
    """One Kafka broker that keeps its data and its address when it is killed and started again.

    `listeners`: properties that replace those of the plain listener; `@PORT@` in them is the port of `address`.
    `account`: what StorageTool adds as SCRAM credentials.
    """

    def __init__(self, work: Path, listeners: str = "", account: str = "") -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work = work
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        libraries = f"{_installed(STACK / 'kafka' / 'lib')}/*"
        self._java = ["java", "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-cp", libraries]
        source = work / "template.properties"
        # Of a property that is there twice, Java takes the last.
        source.write_text((HERE / "kafka" / "server.properties").read_text() + listeners)
        self._properties = _template(
            source,
            work / "server.properties",
            port=self.port,
            controller_port=free_port(),
            data=work / "data",
        )
        cluster = base64.urlsafe_b64encode(uuid.UUID(int=1).bytes).decode().rstrip("=")
        storage = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._properties)]
        accounts = ["--add-scram", account] if account else []
        subprocess.run([*self._java, *storage, *accounts], check=True, capture_output=True)
        self._running = contextlib.ExitStack()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the broker and wait until it listens."""
        command = [*self._java, "kafka.Kafka", str(self._properties)]
        self.process = self._running.enter_context(_process(command, self.work, lambda: _listens(self.port)))

    def kill(self) -> None:
        """Pull the plug: no shut-down, no flush."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.stop()

    def stop(self) -> None:
        """End the broker."""
        self._running.close()


@contextmanager
def s3(work: Path, port: int, bucket: str) -> Iterator[str]:
    """Run an S3 server that keeps its objects in `work`, with one bucket; give its address."""
    binary = str(_installed(STACK / "bin" / "gofakes3"))
    command = [binary, "-backend", "bolt", "-bolt.db", str(work / "s3.db"), "-initialbucket", bucket]
    with _process([*command, "-host", f"127.0.0.1:{port}"], work, lambda: _listens(port)):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def hapi(work: Path) -> Iterator[str]:
    """Run HAPI FHIR R4 on H2 in memory; give its base URL."""
    port = free_port()
    base = f"http://127.0.0.1:{port}/fhir"
    classpath = f"{_installed(STACK / 'hapi' / 'classes')}:{STACK / 'hapi' / 'lib'}/*"
    options = ["-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Dport={port}", f"-Dwork={work / 'tomcat'}"]
    with _process(["java", *options, "-cp", classpath, "FhirServer"], work, lambda: _answers(f"{base}/metadata")):
        yield base


def validated(resources: Iterable[bytes]) -> list[list[str]]:
    """Return what HAPI's R4 validator says of each resource (JSON): its errors, and not what it warns of."""
    classpath = f"{_installed(STACK / 'hapi' / 'classes')}:{STACK / 'hapi' / 'lib'}/*"
    options = ["-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    told = subprocess.run(
        ["java", *options, "-cp", classpath, "Validate"],
        input=b"".join(resource + b"\n" for resource in resources),
        capture_output=True,
        check=True,
        timeout=START_SECONDS,
    )
    answers = [line.split("\t")[1:] for line in told.stdout.decode().splitlines() if line.startswith("> ")]
    return [[said for said in answer if said.startswith(("ERROR", "FATAL"))] for answer in answers]


@contextmanager
def orthanc(work: Path, auscult_port: int) -> Iterator[tuple[str, int]]:
    """Run Orthanc, which forwards stable studies to `auscult_port`; give its URL and its DICOM port."""
    port, dicom_port = free_port(), free_port()
    work.mkdir(parents=True, exist_ok=True)
    configuration = _template(
        HERE / "orthanc" / "orthanc.json",
        work / "orthanc.json",
        data=work / "data",
        dicomweb=_installed(DICOMWEB),
        forward=HERE / "orthanc" / "forward.lua",
        http_port=port,
        dicom_port=dicom_port,
        auscult_port=auscult_port,
    )
    url = f"http://127.0.0.1:{port}"
    with _process(["Orthanc", str(configuration)], work, lambda: _answers(f"{url}/system")):
        yield url, dicom_port


@contextmanager
def storescp(folder: Path) -> Iterator[tuple[int, Path]]:
    """Run dcmtk's storescp; give its port, and the folder in which it keeps what it receives."""
    port, kept = free_port(), folder / "kept"
    kept.mkdir(parents=True)
    command = ["storescp", "--accept-all", "-aet", "MOVED", "-od", str(kept), str(port)]
    with _process(command, folder, lambda: _listens(port)):
        yield port, kept


@contextmanager
def dcmqrscp(folder: Path, auscult_port: int) -> Iterator[int]:
    """Run dcmtk's archive `QR`, which offers C-MOVE to `AUSCULT` and no C-GET; give its port."""
    port, kept = free_port(), folder / "kept"
    kept.mkdir(parents=True)
    configuration = folder / "dcmqrscp.cfg"
    configuration.write_text(
        "MaxPDUSize = 16384\nMaxAssociations = 8\n"
        f"HostTable BEGIN\nauscult = (AUSCULT, 127.0.0.1, {auscult_port})\nHostTable END\n"
        f"VendorTable BEGIN\nVendorTable END\nAETable BEGIN\nQR {kept} RW (50, 1024mb) ANY\nAETable END\n"
    )
    command = ["dcmqrscp", "--disable-get", "-c", str(configuration), str(port)]
    with _process(command, folder, lambda: _listens(port)):
        yield port
