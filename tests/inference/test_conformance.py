"""An unmodified tritonclient, in a process and an environment of its own, against a server that it may change."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from onnx import TensorProto, helper

from auscult.inference.metrics import MetricsServer
from auscult.inference.pb import model_config_pb2, open_inference_grpc_pb2
from auscult.inference.repository import Repository
from auscult.inference.server import create_server
from inference.test_volumes import CONFIG, both_signs

pytestmark = pytest.mark.golden

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".cache/tritonclient/bin/python"

DOUBLE = """
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: [3] }
output { name: "y" data_type: TYPE_FP32 dims: [3] }
"""
BATCHING = "dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 2000 }" + DOUBLE
LIMITED = """
input { name: "n" data_type: TYPE_INT64 dims: [] }
output { name: "y" data_type: TYPE_INT64 dims: [] }
instance_group { count: 1 }
dynamic_batching { default_queue_policy { max_queue_size: 2 allow_timeout_override: true } }
"""
LABELLED = """
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: [3] }
output { name: "y" data_type: TYPE_FP32 dims: [3] label_filename: "labels.txt" }
"""
OPTIONAL = """
input { name: "x" data_type: TYPE_FP32 dims: [2] }
input { name: "offset" data_type: TYPE_FP32 dims: [2] optional: true }
output { name: "y" data_type: TYPE_FP32 dims: [2] }
"""


def optional() -> bytes:
    """Return a model with y = x + offset, where an offset that is not given is (10, 20)."""
    x, offset, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "offset", "y"))
    default = helper.make_tensor("offset", TensorProto.FLOAT, [2], [10, 20])
    made = helper.make_graph([helper.make_node("Add", ["x", "offset"], ["y"])], "g", [x, offset], [y], [default])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def descriptors() -> bytes:
    """Return what the protocol's messages are here."""
    described = FileDescriptorSet()
    for module in (model_config_pb2, open_inference_grpc_pb2):
        module.DESCRIPTOR.CopyToProto(described.file.add())
    return described.SerializeToString()


@pytest.fixture
def models(
    *,
    tmp_path: Path,
    root: Path,
    write: Callable[..., Path],
    seal: Callable[[Path], None],
    double: bytes,
    times: Callable[[float], bytes],
) -> Path:
    """Return a repository for the client to change, and beside it, in `spare`, what it may put into `swap`."""
    models = tmp_path / "models"
    shutil.copytree(root, models)
    write(models / "versions", "version_policy { all { } }" + DOUBLE, double, times(4))
    write(models / "batching", BATCHING, double)
    write(models / "limited", LIMITED, (root / "endless/1/model.onnx").read_bytes())
    write(models / "swap", DOUBLE, double)
    write(models / "optional", OPTIONAL, optional())
    write(models / "labelled", LABELLED, double)
    write(models / "patches", CONFIG.format("TYPE_FP32", "TYPE_FP32"), both_signs())
    (models / "labelled/labels.txt").write_text("solid\npart-solid\n")
    seal(models / "labelled")
    for place, model in (("times_two", double), ("times_four", times(4)), ("spoiled", double)):
        write(tmp_path / place / "swap", DOUBLE, model)
        (tmp_path / "spare").mkdir(exist_ok=True)
        (tmp_path / place / "swap").rename(tmp_path / "spare" / place)
    with (tmp_path / "spare/spoiled/1/model.onnx").open("ab") as file:
        file.write(b"!")
    return models


@pytest.fixture
def served(models: Path) -> Iterator[dict[str, str]]:
    """Serve them, and return where, as the environment of the tests that the client runs."""
    server = create_server(Repository(models, threads=1), "127.0.0.1:0", explicit=True)
    server.start()
    with closing(MetricsServer("127.0.0.1:0", server.statistics)) as metrics:
        yield {
            "CONFORMANCE_TARGET": f"127.0.0.1:{server.port}",
            "CONFORMANCE_METRICS": f"127.0.0.1:{metrics.port}",
            "CONFORMANCE_REPOSITORY": str(models),
            "CONFORMANCE_DESCRIPTORS": descriptors().hex(),
        }
    server.stop(None)


def test_tritonclient_finds_all_that_it_asks_for(served: dict[str, str]) -> None:
    """Every method of the protocol and of Triton's extensions, used right and wrong: `conformance/conform_*.py`."""
    if not PYTHON.exists():
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say("tritonclient is not installed; integration/stack/prepare.sh makes its environment")
    command = [PYTHON, "-m", "pytest", "--confcutdir=.", "-c", "pytest.ini", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command,
        cwd=HERE / "conformance",
        env=os.environ | served,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout
