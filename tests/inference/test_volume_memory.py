"""How much memory a volume takes: a server in a process of its own, asked through shared memory."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper

from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.protocol import METHODS
from auscult.inference.wire import Framed
from inference.conftest import graph

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a process's peak is read from /proc"),
]

SHAPE = (1, 400, 512, 512)
SIDE = 96
CONFIG = f"""
max_batch_size: 1
input {{ name: "image" data_type: TYPE_FP32 dims: [1, {SIDE}, {SIDE}, {SIDE}] }}
output {{ name: "score" data_type: TYPE_FP32 dims: [2, {SIDE}, {SIDE}, {SIDE}] }}
parameters {{ key: "sliding_window.roi_size" value {{ string_value: "{SIDE},{SIDE},{SIDE}" }} }}
parameters {{ key: "sliding_window.mode" value {{ string_value: "gaussian" }} }}
"""
SERVE = """
import sys
from pathlib import Path
from auscult.inference.repository import Repository
from auscult.inference.server import create_server
server = create_server(Repository(Path(sys.argv[1]), threads=1), "127.0.0.1:0", 1)
server.start()
print(server.port, flush=True)
sys.stdin.readline()
server.stop(None)
"""


def two_classes() -> bytes:
    """Return a model whose scores are -x and x."""
    shape = ["n", 1, SIDE, SIDE, SIDE]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, [shape[0], 2, *shape[2:]])
    nodes = [
        helper.make_node("Neg", ["image"], ["minus"]),
        helper.make_node("Concat", ["minus", "image"], ["score"], axis=1),
    ]
    return graph(nodes, [image], [score])


def peak(pid: int) -> int:
    """Return the most bytes that a process had resident."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


@contextmanager
def serving(root: Path) -> Iterator[tuple[int, str]]:
    """Serve a repository, and give the process and its address."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield process.pid, f"127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.stdin.write("\n")
            process.stdin.flush()
            process.wait(30)


def test_volume_takes_three_times_its_bytes(tmp_path: Path, write: Callable[..., Path]) -> None:
    """512 x 512 x 400 voxels of two classes: what comes, what goes and all between stay within 3 times the volume."""
    write(tmp_path / "patches", CONFIG, two_classes())
    image = np.random.default_rng(0).integers(-1000, 400, SHAPE, dtype=np.int16)
    memory = Path("/dev/shm") / f"auscult_{tmp_path.name}_{np.random.default_rng().integers(2**32)}"  # noqa: S108
    size, total = image.nbytes, image.nbytes + image.size
    with memory.open("wb") as file:
        file.write(image.data)
        file.truncate(total)
    message = pb.ModelInferRequest(model_name="patches")
    message.inputs.add(name="image", datatype="INT16", shape=SHAPE)
    message.outputs.add(name="labels")
    for tensor, offset, length in ((message.inputs[0], 0, size), (message.outputs[0], size, image.size)):
        tensor.parameters["shared_memory_region"].string_param = "r"
        tensor.parameters["shared_memory_offset"].int64_param = offset
        tensor.parameters["shared_memory_byte_size"].int64_param = length
    try:
        with serving(tmp_path) as (pid, address), grpc.insecure_channel(address) as channel:
            before = peak(pid)
            region = pb.SystemSharedMemoryRegisterRequest(name="r", key=f"/{memory.name}", byte_size=total)
            for name, request in (("SystemSharedMemoryRegister", region), ("ModelInfer", Framed(message, ()))):
                method = METHODS[name]
                channel.unary_unary(method.path, method.encode_request, method.decode_response)(request, timeout=100)
            taken = peak(pid) - before
        labels = np.fromfile(memory, np.uint8, offset=size).reshape(SHAPE)
    finally:
        memory.unlink()
    np.testing.assert_array_equal(labels[:, ::40], image[:, ::40] > 0)
    assert taken <= 3 * size, f"{taken / size:.2f} times"
