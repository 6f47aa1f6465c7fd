"""Starts NVIDIA Triton and MLServer on free loopback ports with the models of one of our repositories.

`prepare.sh` fetches them. Triton has no backend for ONNX in its wheel: its Python backend calls ONNX Runtime.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from auscult.entrypoints.demo.processes import free_port
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.protocol import METHODS

HERE = Path(__file__).parent
PEERS = HERE.parents[1] / ".cache" / "peers"
START_SECONDS = 90.0

BIGGER_THAN_A_VOLUME = 1 << 30
"""Bytes that Triton's server and its Python processes may exchange; by default its 1 MB grows step by step."""


class NotInstalledError(RuntimeError):
    """A peer is missing; the text says what fetches it."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that runs."""

    target: str
    """`host:port` of its gRPC."""
    process: subprocess.Popen[bytes]


def installed(peer: str) -> Path:
    """Return the environment's folder of `triton`, `mlserver` or `perf`; NotInstalledError."""
    folder = PEERS / peer
    if not (folder / ".done").exists():
        raise NotInstalledError(f"{peer} is not installed; integration/peers/prepare.sh fetches it")
    return folder


@contextmanager
def triton(repository: Path, work: Path) -> Iterator[Peer]:
    """Serve the models of `repository` by Triton; what it needs for that is written into `work`."""
    environment = installed("triton")
    (packages,) = environment.glob("lib/python3.*/site-packages")
    home = packages / "pytriton" / "tritonserver"
    for folder in _models(repository):
        _copy(folder, work / "models")
        config = work / "models" / folder.name / "config.pbtxt"
        lines = [line for line in config.read_text().splitlines() if not line.startswith(("platform", "backend"))]
        config.write_text("\n".join([*lines, 'backend: "python"', ""]))
        for version in config.parent.glob("[0-9]*"):
            shutil.copy(HERE / "triton_model.py", version / "model.py")
    port = free_port()
    command = [
        str(home / "bin" / "tritonserver"),
        f"--model-repository={work / 'models'}",
        f"--backend-directory={home / 'backends'}",
        f"--backend-config=python,shm-default-byte-size={BIGGER_THAN_A_VOLUME}",
        f"--backend-config=python,shm-region-prefix-name=triton{port}",
        "--allow-http=false",
        "--allow-metrics=false",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
    ]
    places = {
        "PATH": f"{environment / 'bin'}:/usr/bin:/bin",
        "PYTHONPATH": str(packages),
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
    }
    with _running(command, places, port, work) as peer:
        yield peer


@contextmanager
def mlserver(repository: Path, work: Path) -> Iterator[Peer]:
    """Serve the models of `repository` by MLServer, one process, as `mlserver start` with its defaults does."""
    environment = installed("mlserver")
    for folder in _models(repository):
        _copy(folder, work / "models")
        made = work / "models" / folder.name
        version = max((path.name for path in made.glob("[0-9]*")), key=int)
        settings = {
            "name": folder.name,
            "implementation": "mlserver_model.OnnxModel",
            "parameters": {"uri": str(made / version / "model.onnx"), "version": version},
        }
        (made / "model-settings.json").write_text(json.dumps(settings))
    port = free_port()
    largest = 2**30
    settings = {
        "host": "127.0.0.1",
        "http_port": free_port(),
        "grpc_port": port,
        "metrics_port": free_port(),
        "metrics_dir": str(work / "metrics"),
        "grpc_max_message_length": largest,
        "parallel_workers": 0,
        "debug": False,
    }
    (work / "models" / "settings.json").write_text(json.dumps(settings))
    command = [str(environment / "bin" / "mlserver"), "start", str(work / "models")]
    places = {"PATH": f"{environment / 'bin'}:/usr/bin:/bin", "PYTHONPATH": str(HERE)}
    with _running(command, places, port, work) as peer:
        yield peer


def _models(repository: Path) -> list[Path]:
    return sorted(path.parent for path in repository.glob("*/config.pbtxt"))


def _copy(folder: Path, root: Path) -> None:
    shutil.copytree(folder, root / folder.name, ignore=shutil.ignore_patterns("SHA256SUMS", "card.yaml"))


@contextmanager
def _running(command: list[str], places: Mapping[str, str], port: int, work: Path) -> Iterator[Peer]:
    log = work / "server.log"
    environment = {"HOME": str(work), "TMPDIR": str(work), **places}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=work, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:
        _wait(lambda: process.poll() is None, f"127.0.0.1:{port}", log)
        yield Peer(f"127.0.0.1:{port}", process)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(alive: Callable[[], bool], target: str, log: Path) -> None:
    ready = METHODS["ServerReady"]
    end = time.monotonic() + START_SECONDS
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(
            ready.path, request_serializer=ready.encode_request, response_deserializer=ready.decode_response
        )
        while time.monotonic() < end and alive():
            try:
                if call(pb.ServerReadyRequest(), timeout=1).ready:
                    return
            except grpc.RpcError:
                time.sleep(0.1)
    raise RuntimeError("\n".join(["it did not become ready:", *log.read_text(errors="replace").splitlines()[-15:]]))
