"""The service's memory: what requests need is given back or used again, however many come."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from auscult.entrypoints.demo.processes import demo_settings, running
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.protocol import MESSAGE_OPTIONS, METHODS
from auscult.inference.wire import Framed


def asked(model: str, array: np.ndarray, datatype: str) -> bytes:
    """Return an encoded request."""
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name="x", datatype=datatype, shape=array.shape)
    return METHODS["ModelInfer"].encode_request(Framed(message, (array.reshape(-1).view(np.uint8).data,)))


@pytest.fixture
def service(tmp_path: Path, root: Path) -> Iterator[tuple[Callable[[bytes, int, int], None], Callable[[], int]]]:
    """Run the service; return what sends a request so many times, and what tells the service's resident bytes."""
    settings = demo_settings(tmp_path, root, {})
    with running(settings, ("inference",)) as services:
        assert list(services.wait_ready(("inference",))) == ["inference"]
        statm = Path(f"/proc/{services.processes['inference'].popen.pid}/statm")
        with grpc.insecure_channel(settings.inference_target, options=list(MESSAGE_OPTIONS)) as channel:
            call = channel.unary_unary(METHODS["ModelInfer"].path)

            def send(request: bytes, times: int, at_once: int) -> None:
                for _ in range(times // at_once):
                    for answer in [call.future(request, timeout=60) for _ in range(at_once)]:
                        answer.result()

            yield send, lambda: int(statm.read_text().split()[1]) * resource.getpagesize()


@pytest.mark.golden
def test_memory_is_flat_over_ten_thousand_requests(service: tuple[Callable[..., None], Callable[[], int]]) -> None:
    """After a thousand requests, ten thousand more add less than 2 MB: not 200 bytes each stay."""
    send, resident = service
    request = asked("double", np.ones((1, 3), np.float32), "FP32")
    send(request, 1000, 8)
    before = resident()
    send(request, 10_000, 8)
    assert resident() - before < 2_000_000


@pytest.mark.golden
def test_volumes_use_the_memory_of_those_before(service: tuple[Callable[..., None], Callable[[], int]]) -> None:
    """After forty volumes of 8 MB a hundred and sixty more add less than two of them."""
    send, resident = service
    request = asked("mirror_UINT8", np.ones(8 * 2**20, np.uint8), "UINT8")
    send(request, 40, 1)
    before = resident()
    send(request, 160, 1)
    assert resident() - before < 16 * 2**20


def test_freed_memory_stays_with_the_process() -> None:
    """A block of 32 MB that was freed is used again, without pages being fetched anew."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("the C library is not glibc")
    script = """if True:
        import resource
        from auscult.platform.allocator import keep_freed_memory
        assert keep_freed_memory()
        bytes(1) * 2**25
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            b"1" * 2**25
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    # Unused, each block would have 8192 pages.
    assert int(done.stdout) < 2048
