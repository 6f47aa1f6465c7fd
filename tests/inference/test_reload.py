"""Models that change while they are served: by request, and as their folders change."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from auscult.domain.deadline import Deadline
from auscult.inference.administration import RepositoryService
from auscult.inference.client import InferenceClient
from auscult.inference.loading import STAGE
from auscult.inference.metadata import REASON
from auscult.inference.metrics import MetricsServer, render
from auscult.inference.parameters import InvalidRequestError
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.repository import RETIRED, LoadError, RefusedModelError, Repository, UnknownModelError
from auscult.inference.server import serve as serve_settings
from auscult.inference.statistics import Statistics
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings

DOUBLE = """
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: [3] }
output { name: "y" data_type: TYPE_FP32 dims: [3] }
"""


@pytest.fixture
def folder(tmp_path: Path, write: Callable[..., Path], double: bytes) -> Path:
    """Return a sealed model folder."""
    return write(tmp_path / "models/double", DOUBLE, double)


@pytest.fixture
def repository(folder: Path) -> Repository:
    """Return a repository of that model alone."""
    return Repository(folder.parent, threads=1)


def answer(repository: Repository) -> float:
    """Return what the model that is served makes of a one."""
    model, version = repository.find("double")
    (y,) = model.sessions[version].run(["y"], {"x": np.ones((1, 3), np.float32)})
    return float(y[0, 0])


def test_poll_sees_what_is_new_changed_and_gone(
    folder: Path, repository: Repository, write: Callable[..., Path], double: bytes, times: Callable[[float], bytes]
) -> None:
    """Each look brings the served models to the state of the folders; without a change nothing is loaded again."""
    before = repository.find("double")[0]
    repository.poll()
    assert repository.find("double")[0] is before
    write(folder.parent / "other", DOUBLE, double)
    shutil.rmtree(folder)
    write(folder, DOUBLE, double, times(4))
    repository.poll()
    assert sorted(repository.models) == ["double", "other"]
    assert answer(repository) == 4
    shutil.rmtree(folder)
    repository.poll()
    with pytest.raises(UnknownModelError):
        repository.find("double")
    assert sorted(repository.models) == ["other"]


def test_half_written_version_leaves_the_old_one(
    folder: Path, repository: Repository, seal: Callable[[Path], None], times: Callable[[float], bytes]
) -> None:
    """A version whose files do not have their digests yet is refused with its reason, and served once they have."""
    (folder / "2").mkdir()
    (folder / "2/model.onnx").write_bytes(times(4))
    repository.poll()
    assert answer(repository) == 2
    assert "does not list 2/model.onnx" in repository.refused["double"]
    assert [(entry.version, entry.ready) for entry in repository.index()] == [("1", True), ("", False)]
    card = folder / "card.yaml"
    card.write_text(card.read_text().replace("version: 1", "version: 2"))
    seal(folder)
    repository.poll()
    assert answer(repository) == 4
    assert not repository.refused


def test_repository_that_is_away_keeps_its_models(folder: Path, repository: Repository, tmp_path: Path) -> None:
    """Where the folder of all models cannot be read nothing is unloaded."""
    folder.parent.rename(tmp_path / "away")
    with pytest.raises(OSError, match="models"):
        repository.poll()
    assert answer(repository) == 2


def test_unloaded_model_says_so_until_it_is_loaded(repository: Repository) -> None:
    """Unloading twice is no error; loading brings it back."""
    repository.unload("double")
    repository.unload("double")
    with pytest.raises(RefusedModelError, match="it was unloaded"):
        repository.find("double")
    repository.load("double")
    assert answer(repository) == 2


def test_refused_load_keeps_the_old_and_readiness_says_why(folder: Path, repository: Repository, serve: Any) -> None:
    """ModelReady stays true, with the reason why the new files are not served beside it."""
    with serve(repository) as target, grpc.insecure_channel(target) as channel:
        ready = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelReady",
            request_serializer=pb.ModelReadyRequest.SerializeToString,
            response_deserializer=pb.ModelReadyResponse.FromString,
        )
        assert ready.with_call(pb.ModelReadyRequest(name="double"), timeout=30)[1].trailing_metadata() == ()
        (folder / "1/model.onnx").write_bytes(b"spoiled")
        with pytest.raises(LoadError, match="the model loaded before goes on serving"):
            repository.load("double")
        response, call = ready.with_call(pb.ModelReadyRequest(name="double"), timeout=30)
        assert response.ready
        assert dict(call.trailing_metadata())[REASON].startswith("1/model.onnx is not the file that SHA256SUMS lists")
        with InferenceClient(target, None) as client:
            x = np.ones((1, 3), np.float32)
            assert client.infer("double", {"x": x}, deadline=Deadline.after(30))["y"].tolist() == [[2, 2, 2]]


def restage(folder: Path, seal: Callable[[Path], None], stage: str) -> None:
    """Write another stage into a model's card."""
    card = folder / "card.yaml"
    card.write_text(re.sub("(?m)^stage: .*$", f"stage: {stage}", card.read_text()))
    seal(folder)


def test_retired_model_is_served_only_when_asked_for(
    folder: Path, repository: Repository, seal: Callable[[Path], None]
) -> None:
    """A model that is retired while it serves is unloaded; a request to load it brings it back, marked."""
    assert repository.models["double"].config.parameters[STAGE].string_value == "shadow"
    restage(folder, seal, "retired")
    repository.poll()
    with pytest.raises(RefusedModelError, match="its card says that it is retired"):
        repository.find("double")
    assert Repository(folder.parent, threads=1).refused == {"double": RETIRED}
    repository.load("double")
    repository.poll()
    assert answer(repository) == 2
    assert repository.models["double"].config.parameters[STAGE].string_value == "retired"
    restage(folder, seal, "active")
    repository.poll()
    assert repository.models["double"].config.parameters[STAGE].string_value == "active"


def test_models_stay_unless_the_setting_allows_a_change(repository: Repository, serve: Any) -> None:
    """By default nobody can load or unload, and the refusal names the setting."""
    with serve(repository) as target, grpc.insecure_channel(target) as channel:
        for method in ("Load", "Unload"):
            request = getattr(pb, f"RepositoryModel{method}Request")(model_name="double")
            call = channel.unary_unary(f"/inference.GRPCInferenceService/RepositoryModel{method}")
            with pytest.raises(grpc.RpcError, match="AUSCULT_INFERENCE_MODEL_CONTROL") as failure:
                call(request.SerializeToString(), timeout=30)
            assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
    assert answer(repository) == 2


@pytest.mark.parametrize("name", ["", "..", "../double", "a\r\nb"])
def test_what_is_no_name_is_not_loaded(name: str, repository: Repository, double: bytes) -> None:
    """A request cannot bring a model whose name would tear apart a line of the log or of the metrics."""
    request = pb.RepositoryModelLoadRequest(model_name=name)
    request.parameters["config"].string_param = "{}"
    request.parameters["file:1/model.onnx"].bytes_param = double
    with pytest.raises(InvalidRequestError, match="is no name of a model"):
        RepositoryService(repository, explicit=True).repository_model_load(request, None)
    assert list(repository.models) == ["double"]


def test_bytes_that_are_no_message_end_the_stream_with_an_error(repository: Repository, serve: Any) -> None:
    """A stream is told, and is read no further."""
    with serve(repository) as target, grpc.insecure_channel(target) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        (answer,) = call(iter([b"\x0a\xff", b"\x0a\xff"]), timeout=30)
    assert "is not this method's message" in pb.ModelStreamInferResponse.FromString(answer).error_message


def test_metrics_are_at_their_path_alone() -> None:
    """Another path is not found, and a second server on the address refuses to start."""
    with closing(MetricsServer("127.0.0.1:0", Statistics())) as server:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/")
        with pytest.raises(RefuseToStart, match="for metrics"):
            MetricsServer(f"127.0.0.1:{server.port}", Statistics())


def test_label_is_escaped() -> None:
    """A model's name cannot break the format."""
    statistics = Statistics()
    statistics.of('a"b\\c', "1")
    assert r'nv_inference_count{model="a\"b\\c",version="1"} 0' in render(statistics).splitlines()


def test_server_polls_where_it_is_told_to(folder: Path, write: Callable[..., Path], double: bytes) -> None:
    """With the setting `poll` a folder that appears is served, and one that is away for a moment stays."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    stopping, ready = threading.Event(), threading.Event()
    settings = Settings(
        model_repository=folder.parent,
        inference_listen=address,
        inference_threads=1,
        inference_model_control="poll",
        inference_poll_seconds=0.01,
        inference_metrics_listen="127.0.0.1:0",
    )
    serving = threading.Thread(target=serve_settings, args=(settings, stopping), kwargs={"on_ready": ready.set})
    serving.start()
    try:
        assert ready.wait(30)
        away = folder.parent.rename(folder.parent.with_name("away"))
        write(away / "other", DOUBLE, double)
        away.rename(folder.parent)
        with InferenceClient(address, None) as client:
            client.wait_ready(["double", "other"], timeout=30)
    finally:
        stopping.set()
        serving.join(30)
    assert not serving.is_alive()
