"""Health, metadata, repository, shared memory, statistics and settings, as tritonclient calls them."""

from __future__ import annotations

import shutil
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, serialize_byte_tensor, shared_memory

ONES = np.ones((1, 3), np.float32)


def test_server_is_alive_and_ready(client: InferenceServerClient) -> None:
    """Health and metadata of the server."""
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata.name == "auscult"
    assert {"model_repository", "system_shared_memory", "statistics", "trace", "logging"} < set(metadata.extensions)


def test_models_are_ready_by_version(client: InferenceServerClient) -> None:
    """Only what is served is ready."""
    assert client.is_model_ready("versions")
    assert client.is_model_ready("versions", "1")
    assert not client.is_model_ready("versions", "3")
    assert not client.is_model_ready("broken")
    assert not client.is_model_ready("nobody")


def test_models_are_described(client: InferenceServerClient, refused: Callable[..., str]) -> None:
    """Metadata with the batch dimension, configuration without."""
    metadata = client.get_model_metadata("versions", as_json=True)
    assert metadata["versions"] == ["1", "2"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "3"]}]
    config = client.get_model_config("batching").config
    assert (config.max_batch_size, list(config.input[0].dims)) == (4, [3])
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    assert "unknown model" in refused("NOT_FOUND", client.get_model_metadata, "nobody")
    assert "SHA256SUMS" in refused("UNAVAILABLE", client.get_model_config, "broken")


def index(client: InferenceServerClient) -> dict[tuple[str, str], tuple[str, str]]:
    """Return the repository's index: state and reason by name and version."""
    return {(it.name, it.version): (it.state, it.reason) for it in client.get_model_repository_index().models}


def test_index_tells_what_is_served_and_why_not(client: InferenceServerClient) -> None:
    """Versions that are ready, and a model that is refused with its reason."""
    told = index(client)
    assert told["versions", "1"] == told["versions", "2"] == ("READY", "")
    state, reason = told["broken", ""]
    assert state == "UNAVAILABLE"
    assert "1/model.onnx is not the file that SHA256SUMS lists" in reason


def test_model_is_unloaded_and_loaded(
    client: InferenceServerClient, tensor: Callable[..., Any], refused: Callable[..., str]
) -> None:
    """An unloaded model is UNAVAILABLE and says so; loaded again it answers."""
    client.unload_model("swap")
    assert not client.is_model_ready("swap")
    assert "it was unloaded" in refused("UNAVAILABLE", client.infer, "swap", [tensor(ONES)])
    assert index(client)["swap", ""] == ("UNAVAILABLE", "it was unloaded")
    client.load_model("swap")
    assert client.is_model_ready("swap")
    assert client.infer("swap", [tensor(ONES)]).as_numpy("y").tolist() == [[2, 2, 2]]


def test_what_cannot_be_loaded_says_why(client: InferenceServerClient, refused: Callable[..., str]) -> None:
    """A folder that is not there, one that is refused, and content of a request that is not right."""
    assert "no folder 'nobody'" in refused("NOT_FOUND", client.load_model, "nobody")
    assert "no folder '..'" in refused("NOT_FOUND", client.load_model, "..")
    assert "SHA256SUMS" in refused("INVALID_ARGUMENT", client.load_model, "broken")
    load = client.load_model
    assert "request's config" in refused("INVALID_ARGUMENT", load, "swap", config="{")
    assert "max_batch_size is negative" in refused("INVALID_ARGUMENT", load, "swap", config='{"max_batch_size": -1}')
    files = {"file:1/model.onnx": b"no graph"}
    assert "config is needed" in refused("INVALID_ARGUMENT", load, "swap", files=files)
    assert "1/model.onnx is not an ONNX graph" in refused("INVALID_ARGUMENT", load, "swap", config="{}", files=files)
    files = {"file:../double/1/model.onnx": b""}
    assert "within the model's folder" in refused("INVALID_ARGUMENT", load, "swap", config="{}", files=files)
    assert client.is_model_ready("swap")
    assert "unknown model" in refused("NOT_FOUND", client.unload_model, "nobody")


def test_configuration_of_a_request_holds_until_the_model_is_loaded_without(client: InferenceServerClient) -> None:
    """Triton's `config` of load_model: the folder's graph with another configuration."""
    client.load_model("swap", config='{"max_batch_size": 2}')
    config = client.get_model_config("swap", as_json=True)["config"]
    assert config["max_batch_size"] == 2
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["3"]}]
    client.load_model("swap")
    assert client.get_model_config("swap").config.max_batch_size == 4


def test_files_of_a_request_are_served(
    client: InferenceServerClient, tensor: Callable[..., Any], repository: Path
) -> None:
    """Triton's `file:` of load_model: a model that the repository need not have, until it is unloaded."""
    graph = (repository.parent / "spare/times_four/1/model.onnx").read_bytes()
    for name, version in (("brought", "3"), ("swap", "1")):
        client.load_model(name, config='{"max_batch_size": 4}', files={f"file:{version}/model.onnx": graph})
        result = client.infer(name, [tensor(ONES)])
        assert result.as_numpy("y").tolist() == [[4, 4, 4]]
        assert result.get_response().model_version == version
    client.unload_model("brought")
    client.load_model("swap")
    assert client.infer("swap", [tensor(ONES)]).as_numpy("y").tolist() == [[2, 2, 2]]


def exchange(repository: Path, name: str, content: str) -> None:
    """Put another folder in a model's place."""
    shutil.rmtree(repository / name)
    shutil.copytree(repository.parent / "spare" / content, repository / name)


def test_reload_under_load_drops_nothing(
    client: InferenceServerClient, tensor: Callable[..., Any], repository: Path, refused: Callable[..., str]
) -> None:
    """While a model is reloaded, refused, and reloaded, every request is answered, by the old or the new version."""
    answers: list[float] = []
    failures: list[Exception] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                answers.append(client.infer("swap", [tensor(ONES)]).as_numpy("y")[0, 0])
            except InferenceServerException as error:
                failures.append(error)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(5):
            exchange(repository, "swap", "times_four")
            client.load_model("swap")
            exchange(repository, "swap", "spoiled")
            words = refused("INVALID_ARGUMENT", client.load_model, "swap")
            assert "the model loaded before goes on serving" in words
            assert client.is_model_ready("swap")
            states = {state for (name, _), (state, _) in index(client).items() if name == "swap"}
            assert states == {"READY", "UNAVAILABLE"}
            exchange(repository, "swap", "times_two")
            client.load_model("swap")
    finally:
        stop.set()
        for asker in askers:
            asker.join()
    assert failures == []
    assert set(answers) == {2, 4}


@pytest.fixture
def region() -> Iterator[Any]:
    """Return 48 bytes of system shared memory, as tritonclient makes them."""
    handle = shared_memory.create_shared_memory_region("whole", "/auscult_conformance", 48)
    yield handle
    shared_memory.destroy_shared_memory_region(handle)


def test_tensors_pass_through_shared_memory(client: InferenceServerClient, region: Any) -> None:
    """Input and output lie in regions, and nothing of them in the messages."""
    shared_memory.set_shared_memory_region(region, [ONES, ONES])
    client.register_system_shared_memory("whole", "/auscult_conformance", 48)
    status = client.get_system_shared_memory_status(as_json=True)["regions"]["whole"]
    assert (status["key"], status["byte_size"]) == ("/auscult_conformance", "48")
    x = InferInput("x", [1, 3], "FP32")
    x.set_shared_memory("whole", 12, offset=12)
    y = InferRequestedOutput("y")
    y.set_shared_memory("whole", 24, offset=24)
    result = client.infer("double", [x], outputs=[y])
    output = result.get_output("y")
    assert output.parameters["shared_memory_region"].string_param == "whole"
    assert result.get_response().raw_output_contents == [b""]
    assert shared_memory.get_contents_as_numpy(region, np.float32, [3], 24).tolist() == [2, 2, 2]
    client.unregister_system_shared_memory("whole")
    assert not client.get_system_shared_memory_status().regions


def test_texts_pass_through_shared_memory(client: InferenceServerClient, region: Any) -> None:
    """BYTES lie in a region as they lie in a message."""
    texts = np.array([b"ab", b"", b"c"], object)
    shared_memory.set_shared_memory_region(region, [serialize_byte_tensor(texts)])
    client.register_system_shared_memory("whole", "/auscult_conformance", 48)
    x = InferInput("x", [3], "BYTES")
    x.set_shared_memory("whole", 15)
    assert client.infer("mirror_BYTES", [x]).as_numpy("y").tolist() == texts.tolist()
    client.unregister_system_shared_memory()


@pytest.mark.usefixtures("region")
def test_wrong_regions_are_named(
    client: InferenceServerClient, tensor: Callable[..., Any], refused: Callable[..., str]
) -> None:
    """Regions that are not there, twice there, too small or elsewhere, and places outside of them."""
    register = client.register_system_shared_memory
    assert "cannot open shared memory" in refused("INVALID_ARGUMENT", register, "r", "/auscult_nowhere", 8)
    assert "without slashes" in refused("INVALID_ARGUMENT", register, "r", "/../etc/passwd", 8)
    assert "48 bytes, 56 are needed" in refused(
        "INVALID_ARGUMENT", register, "r", "/auscult_conformance", 48, offset=8
    )
    register("r", "/auscult_conformance", 40, offset=8)
    assert "registered already" in refused("ALREADY_EXISTS", register, "r", "/auscult_conformance", 40)
    assert "'other'" in refused("NOT_FOUND", client.get_system_shared_memory_status, "other")
    x = InferInput("x", [1, 3], "FP32")
    x.set_shared_memory("other", 12)
    assert "'other' is registered" in refused("NOT_FOUND", client.infer, "double", [x])
    x.set_shared_memory("r", 12, offset=32)
    assert "do not lie within" in refused("INVALID_ARGUMENT", client.infer, "double", [x])
    x.set_shared_memory("r", 8)
    assert "8 bytes of raw contents given, 12 expected" in refused("INVALID_ARGUMENT", client.infer, "double", [x])
    y = InferRequestedOutput("y")
    y.set_shared_memory("r", 4)
    assert "12 needed" in refused("INVALID_ARGUMENT", client.infer, "double", [tensor(ONES)], outputs=[y])
    client.unregister_system_shared_memory("r")
    client.unregister_system_shared_memory("r")


def test_cuda_regions_are_not_served(client: InferenceServerClient, refused: Callable[..., str]) -> None:
    """Without a GPU each of the three methods says what to use instead; forgetting all regions is always possible."""
    client.unregister_cuda_shared_memory()
    for call, arguments in (
        (client.get_cuda_shared_memory_status, ()),
        (client.register_cuda_shared_memory, ("r", b"aGFuZGxl", 0, 8)),
        (client.unregister_cuda_shared_memory, ("r",)),
    ):
        assert "use system shared memory" in refused("UNIMPLEMENTED", call, *arguments)


def test_statistics_and_metrics_agree(
    client: InferenceServerClient, tensor: Callable[..., Any], metrics: str, refused: Callable[..., str]
) -> None:
    """Successes, failures, times and batch sizes, over gRPC and for Prometheus."""
    before = client.get_inference_statistics("pair").model_stats[0]
    inputs = [tensor(np.array([5, 7], np.float32), name) for name in "ab"]
    for _ in range(3):
        client.infer("pair", inputs)
    refused("INVALID_ARGUMENT", client.infer, "pair", inputs[:1])
    after = client.get_inference_statistics("pair", "1").model_stats[0]
    assert after.inference_count - before.inference_count == 3
    assert after.execution_count - before.execution_count == 3
    stats = after.inference_stats
    assert stats.success.count - before.inference_stats.success.count == 3
    assert stats.fail.count - before.inference_stats.fail.count == 1
    assert stats.success.ns >= stats.queue.ns + stats.compute_infer.ns > 0
    assert after.last_inference > 1_600_000_000_000
    with urllib.request.urlopen(f"http://{metrics}/metrics") as page:
        lines = dict(line.rsplit(" ", 1) for line in page.read().decode().splitlines() if not line.startswith("#"))
    labels = 'model="pair",version="1"'
    assert int(lines[f"nv_inference_request_success{{{labels}}}"]) == stats.success.count
    assert int(lines[f'nv_inference_request_failure{{{labels},reason="OTHER"}}']) == stats.fail.count
    assert int(lines[f"nv_inference_count{{{labels}}}"]) == after.inference_count
    assert int(lines[f"nv_inference_exec_count{{{labels}}}"]) == after.execution_count
    assert int(lines[f"nv_inference_compute_infer_duration_us{{{labels}}}"]) == stats.compute_infer.ns // 1000
    assert int(lines[f"nv_inference_pending_request_count{{{labels}}}"]) == 0
    assert len(client.get_inference_statistics().model_stats) > 10
    assert "unknown model" in refused("NOT_FOUND", client.get_inference_statistics, "nobody")


def test_trace_settings_are_read_and_changed(client: InferenceServerClient, refused: Callable[..., str]) -> None:
    """For all models or one of them; what would write tensors is refused."""
    assert client.get_trace_settings(as_json=True)["settings"]["trace_mode"] == {"value": ["opentelemetry"]}
    client.update_trace_settings("pair", {"trace_level": "OFF", "trace_rate": "10"})
    own = client.get_trace_settings("pair", as_json=True)["settings"]
    assert (own["trace_level"], own["trace_rate"]) == ({"value": ["OFF"]}, {"value": ["10"]})
    assert client.get_trace_settings("double", as_json=True)["settings"]["trace_level"] == {"value": ["TIMESTAMPS"]}
    client.update_trace_settings("pair", {"trace_level": None, "trace_rate": None})
    assert client.get_trace_settings("pair", as_json=True)["settings"]["trace_rate"] == {"value": ["1000"]}
    change = client.update_trace_settings
    assert "patients' data" in refused("UNIMPLEMENTED", change, None, {"trace_level": "TENSORS"})
    assert "at least 1" in refused("INVALID_ARGUMENT", change, None, {"trace_rate": "-3"})
    assert "unknown trace setting" in refused("INVALID_ARGUMENT", change, None, {"colour": "red"})
    assert "unknown model" in refused("NOT_FOUND", change, "nobody", {"trace_rate": "2"})


def test_log_settings_are_read_and_changed(client: InferenceServerClient, refused: Callable[..., str]) -> None:
    """Each level by itself."""
    assert client.get_log_settings(as_json=True)["settings"]["log_info"] == {"bool_param": True}
    changed = client.update_log_settings({"log_info": False, "log_verbose_level": 1}, as_json=True)["settings"]
    assert (changed["log_info"], changed["log_verbose_level"]) == ({"bool_param": False}, {"uint32_param": 1})
    client.update_log_settings({"log_info": True, "log_verbose_level": 0})
    assert "collected" in refused("UNIMPLEMENTED", client.update_log_settings, {"log_file": "elsewhere.log"})
    assert "unknown log setting" in refused("INVALID_ARGUMENT", client.update_log_settings, {"colour": True})
