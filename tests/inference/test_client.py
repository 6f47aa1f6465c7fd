"""Our client against our server, over real gRPC."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from auscult.domain.deadline import Deadline
from auscult.domain.finding import ModelReference
from auscult.inference.client import InferenceClient
from auscult.inference.repository import Repository
from auscult.inference.tensors import DATATYPES
from auscult.platform import telemetry
from auscult.platform.errors import AuscultError, DeadLetter, RefuseToStart, Retry, TellClinician

EVER = np.array(2**62, np.int64)


def soon() -> Deadline:
    """Return a deadline that a working server meets."""
    return Deadline.after(30)


def test_batched_model_answers(client: InferenceClient) -> None:
    """A batch goes in and comes back as a batch."""
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert_array_equal(client.infer("double", {"x": x}, deadline=soon())["y"], x * 2)


def test_layout_of_input_does_not_matter(client: InferenceClient) -> None:
    """A transposed, strided or big-endian array arrives as the values that it shows."""
    x = np.arange(24, dtype=np.float32).reshape(3, 8)[:, ::2].T
    assert_array_equal(client.infer("double", {"x": x}, deadline=soon())["y"], x * 2)
    assert_array_equal(client.infer("double", {"x": x.astype(">f4")}, deadline=soon())["y"], x * 2)


def test_all_outputs_arrive_by_name(client: InferenceClient) -> None:
    """A model with several inputs and outputs gives each under its name."""
    a, b = np.array([5, 7], np.float32), np.array([2, 3], np.float32)
    got = client.infer("pair", {"b": b, "a": a}, deadline=soon())
    assert_array_equal(got["total"], [7, 10])
    assert_array_equal(got["difference"], [3, 4])


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name != "BYTES"])
def test_numbers_survive_the_round_trip(client: InferenceClient, datatype: str) -> None:
    """The extreme values of every datatype come back bit for bit."""
    dtype = DATATYPES[datatype].numpy
    if dtype.kind == "b":
        limits: list[Any] = [False, True]
    elif dtype.kind == "f":
        limits = [np.finfo(dtype).min, np.finfo(dtype).max, np.nan, -0.0]
    else:
        limits = [np.iinfo(dtype).min, np.iinfo(dtype).max]
    x = np.array(limits, dtype)
    y = client.infer(f"mirror_{datatype}", {"x": x}, deadline=soon())["y"]
    assert y.dtype == dtype
    assert y.tobytes() == x.tobytes()


@pytest.mark.parametrize(
    "texts", [np.array(["", "Lunge rechts", "肺"]), np.array(["", "肺"], object), np.array([b"", b"ab"])]
)
def test_texts_survive_the_round_trip(client: InferenceClient, texts: Any) -> None:
    """Texts go in as numpy holds them and come back as UTF-8 bytes."""
    y = client.infer("mirror_BYTES", {"x": texts}, deadline=soon())["y"]
    assert list(y) == [text if isinstance(text, bytes) else text.encode() for text in texts]


def test_empty_tensor_is_a_tensor(client: InferenceClient) -> None:
    """A tensor without elements is sent and returned like any other."""
    assert client.infer("mirror_INT16", {"x": np.empty(0, np.int16)}, deadline=soon())["y"].shape == (0,)


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        ("double", {"x": np.zeros((1, 4), np.float32)}, r"input 'x': expected FP32 of shape \[-1, 3\], .*\[1, 4\]"),
        ("double", {"x": np.zeros((1, 3), np.int16)}, r"expected FP32 .*given INT16 of shape \[1, 3\]"),
        ("double", {"x": np.zeros(3, np.float32)}, r"expected FP32 of shape \[-1, 3\], given FP32 of shape \[3\]"),
        ("double", {"x": np.zeros((5, 3), np.float32)}, "a batch of 1 to 4 is expected, given 5"),
        ("double", {"z": np.zeros((1, 3), np.float32)}, r"expected inputs \['x'\], given \['z'\]"),
        ("double", {}, r"expected inputs \['x'\], given \[\]"),
        ("nobody", {}, r"NOT_FOUND: unknown model 'nobody'; there are double, endless"),
        ("mirror_BYTES", {"x": np.array([b"\xff"])}, "input 'x': an element of BYTES is not UTF-8"),
    ],
)
def test_request_that_does_not_fit_is_a_dead_letter(
    client: InferenceClient, model: str, inputs: dict[str, Any], message: str
) -> None:
    """What the model will never take is refused with the tensor, what is expected and what was given."""
    with pytest.raises(DeadLetter, match=message) as refusal:
        client.infer(model, inputs, deadline=soon())
    assert refusal.value.reason == "inference-refused"


def test_refused_model_gives_its_reason(client: InferenceClient) -> None:
    """A model whose file was changed is not run, and the caller learns why."""
    with pytest.raises(Retry, match=r"1/model\.onnx is not the file that SHA256SUMS lists") as refusal:
        client.infer("broken", {}, deadline=soon())
    assert refusal.value.reason == "inference-unavailable"


def test_failing_run_names_the_node_and_no_data(client: InferenceClient) -> None:
    """A model that fails while it runs is tried again; the text has the failing node, not the tensor's elements."""
    assert client.infer("pick", {"i": np.array(2)}, deadline=soon())["y"] == 9
    with pytest.raises(Retry, match=r"model 'pick' version 1 failed: .*Name:'choose'") as failure:
        client.infer("pick", {"i": np.array(987654)}, deadline=soon())
    assert failure.value.reason == "inference-failed"
    assert "987654" not in str(failure.value)


def test_unreachable_server_is_retried() -> None:
    """Where nothing listens the message is to be tried again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        with InferenceClient(f"127.0.0.1:{taken.getsockname()[1]}", None) as client:
            with pytest.raises(Retry) as failure:
                client.infer("double", {}, deadline=soon())
            assert failure.value.reason == "inference-unavailable"


def test_passed_deadline_is_not_sent(client: InferenceClient) -> None:
    """Without time left the clinician is told at once."""
    with pytest.raises(TellClinician) as failure:
        client.infer("double", {}, deadline=Deadline.after(-1))
    assert failure.value.reason == "deadline-exceeded"


def test_run_ends_at_its_deadline(client: InferenceClient) -> None:
    """A model that would run for ever is stopped: the one thread that runs models takes the next request."""
    with pytest.raises(TellClinician) as failure:
        client.infer("endless", {"n": EVER}, deadline=Deadline.after(0.3))
    assert failure.value.reason == "deadline-exceeded"
    assert client.infer("endless", {"n": np.array(3)}, deadline=soon())["y"] == 3


def test_run_ends_when_its_client_is_gone(root: Path, serve: Any) -> None:
    """A run without end is stopped when the connection that asked for it closes; until then the server is ready."""
    started = threading.Event()

    class Watched:
        def __init__(self, session: Any) -> None:
            self._session = session

        def run(self, *arguments: Any) -> Any:
            started.set()
            return self._session.run(*arguments)

    repository = Repository(root, threads=1)
    endless = repository._models["endless"]
    watched: Any = Watched(endless.sessions["1"])
    repository._models = {**repository.models, "endless": replace(endless, sessions={"1": watched})}
    with serve(repository) as target:
        leaver = InferenceClient(target, None)
        outcome: list[AuscultError] = []

        def ask() -> None:
            try:
                leaver.infer("endless", {"n": EVER}, deadline=soon())
            except AuscultError as error:
                outcome.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        assert started.wait(30)
        with InferenceClient(target, None) as visitor:
            visitor.wait_ready(["endless"], timeout=30)
        leaver.close()
        asking.join(30)
        assert isinstance(outcome[0], Retry)
        with InferenceClient(target, None) as stayer:
            assert stayer.infer("endless", {"n": np.array(2)}, deadline=soon())["y"] == 2


def test_one_trace_runs_from_client_to_model(client: InferenceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's span is a child of the client's, the model's a child of the server's; no data is in them."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry.trace, "get_tracer", provider.get_tracer)
    client.infer("double", {"x": np.zeros((1, 3), np.float32)}, deadline=soon())
    model, server, caller = exporter.get_finished_spans()
    assert [span.name for span in (caller, server, model)] == ["infer double", "ModelInfer", "onnxruntime run"]
    assert server.parent is not None
    assert model.parent is not None
    assert server.parent.span_id == caller.context.span_id
    assert model.parent.span_id == server.context.span_id
    assert dict(model.attributes or {}) == {"model": "double", "version": "1"}
    assert dict(caller.attributes or {})["run_ms"] > 0


def test_reference_joins_server_and_card(client: InferenceClient) -> None:
    """Version from the server, evidence and stage from the card."""
    assert client.reference("double") == ModelReference("double", "1", "For tests.", stage="shadow")


def test_unknown_model_has_no_reference(client: InferenceClient) -> None:
    """A model that the server does not know has no version."""
    with pytest.raises(DeadLetter, match="unknown model"):
        client.reference("nobody")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("version: 1", "version: 7"), "model-card-mismatch"),
        (lambda text: text.replace("name: double", "name: single"), "model-card-mismatch"),
        (lambda text: text.replace("stage: shadow", "stage: new"), "model-card-invalid"),
        (lambda _: None, "model-card-missing"),
    ],
)
def test_reference_is_never_invented(target: str, root: Path, tmp_path: Path, change: Any, reason: str) -> None:
    """Without the card of the very version that answers, nothing may go on."""
    text = change((root / "double/card.yaml").read_text())
    if text is not None:
        (tmp_path / "double").mkdir()
        (tmp_path / "double/card.yaml").write_text(text)
    with InferenceClient(target, tmp_path) as client, pytest.raises(RefuseToStart) as refusal:
        client.reference("double")
    assert refusal.value.reason == reason


def test_reference_needs_a_folder_of_cards(target: str) -> None:
    """A client without cards says which setting is missing."""
    with InferenceClient(target, None) as client, pytest.raises(RefuseToStart, match="AUSCULT_MODEL_REPOSITORY"):
        client.reference("double")


def test_waiting_ends_when_models_are_ready(client: InferenceClient) -> None:
    """Models that are served are not waited for."""
    client.wait_ready(["double", "pair"], timeout=30)


def test_waiting_in_vain_says_for_what(client: InferenceClient) -> None:
    """The models that did not become ready are named with their reasons."""
    with pytest.raises(RefuseToStart, match=r"broken.*SHA256SUMS.*unknown model 'nobody'") as refusal:
        client.wait_ready(["double", "broken", "nobody"], timeout=0.05)
    assert refusal.value.reason == "model-not-ready"
