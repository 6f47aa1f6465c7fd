"""A plain ONNX file. Weights outside it are taken in, from its own folder only.

There is no other framework to compare with: what is compared is the graph as it was exported, with ONNX Runtime's
optimisations off, and as the service runs it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from auscult.models.build import signature
from auscult.models.importing import golden, graph
from auscult.models.importing.source import NETWORK, CannotImport, Converted, Facts, Request, Tensors, framework

if TYPE_CHECKING:
    from onnx import ModelProto

ROWS = 3
"""Of the example where the batch is open."""


def convert(request: Request) -> Converted:
    """Return the graph; CannotImport names operators, opsets and files that cannot be carried over."""
    model = _read(request.source)
    graph.check(model)
    graph.drop_weights_from_inputs(model)
    given = example(model, request)
    names = [value.name for value in model.graph.output]
    expected = dict(zip(names, golden.run(_unoptimised(model), names, given), strict=True))
    if request.labels and expected[names[0]].shape[-1:] != (len(request.labels),):
        raise CannotImport(
            "labels-wrong",
            f"there are {len(request.labels)} labels, and output {names[0]!r} has the shape "
            f"{list(expected[names[0]].shape)}; name each element of its last axis",
        )
    labels = {names[0]: request.labels} if request.labels else {}
    return Converted(
        model=model,
        given=given,
        expected=expected,
        framework=f"ONNX Runtime {ort.__version__} without optimisations",
        tolerance=NETWORK,
        facts=Facts(summary=model.doc_string.strip(), developer=_producer(model)),
        parameters={entry.key: entry.value for entry in model.metadata_props},
        labels=labels,
        max_batch_size=graph.batch(model, 8),
    )


def example(model: ModelProto, request: Request) -> Tensors:
    """Return the caller's example, or random inputs of the sizes that the graph or the caller states."""
    values = {value.name: value for value in model.graph.input}
    if unknown := sorted((request.inputs.keys() | request.example.keys()) - values.keys()):
        raise CannotImport("input-unknown", f"the model has no input {unknown[0]!r}; it has {', '.join(values)}")
    made: dict[str, Any] = {}
    for number, (name, value) in enumerate(values.items()):
        if name in request.example:
            made[name] = request.example[name].astype(graph.dtype(value), copy=False)
            continue
        sizes = list(request.inputs[name].shape if name in request.inputs else graph.shape(value))
        if sizes and sizes[0] == -1:
            sizes[0] = ROWS
        if -1 in sizes:
            raise CannotImport(
                "input-open",
                f"input {name!r} has open sizes {list(graph.shape(value))}; say which to compare with, "
                f"--input {name}:{signature(value)[0]}:{','.join(str(size) if size > 0 else '…' for size in sizes)}",
            )
        made[name] = golden.random_array(graph.dtype(value), tuple(sizes), request.seed + number)
    return made


def _read(path: Path) -> ModelProto:
    onnx = framework("onnx", "authoring")
    try:
        model: ModelProto = onnx.load_model(path, load_external_data=False)
    except Exception as error:
        raise CannotImport("not-onnx", f"{path.name} is not an ONNX file: {error}") from None
    if not model.opset_import:
        raise CannotImport("not-onnx", f"{path.name} is not an ONNX file: it names no operator set")
    root = path.resolve().parent
    for tensor in onnx.external_data_helper._get_all_tensors(model):  # noqa: SLF001 - the library has no public walk
        if not onnx.external_data_helper.uses_external_data(tensor):
            continue
        location = onnx.external_data_helper.ExternalDataInfo(tensor).location
        file = root / location
        inside = not PurePosixPath(location).is_absolute() and file.resolve().is_relative_to(root)
        if not inside or not file.is_file():
            raise CannotImport(
                "external-data",
                f"weights of {tensor.name!r} are in {location!r}; they have to be in the file's folder",
            )
    try:
        onnx.load_external_data_for_model(model, str(root))
    except Exception as error:
        raise CannotImport("external-data", f"weights outside the file cannot be read: {error}") from None
    return model


def _unoptimised(model: ModelProto) -> ort.InferenceSession:
    onnx = framework("onnx", "authoring")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save_model(model, path, save_as_external_data=True, location="weights")
        # Saving moves the weights' places in `model` to the file just written.
        onnx.load_external_data_for_model(model, folder)
        try:
            return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise CannotImport("onnx-fails", f"ONNX Runtime cannot load the graph: {error}") from None


def _producer(model: ModelProto) -> str:
    return f"{model.producer_name} {model.producer_version}".strip()
