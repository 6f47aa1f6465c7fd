"""Writing a converted model into the repository: whole and compared with its source, or not at all."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import onnxruntime as ort

from auscult.models.build import SUMS, content, signature, sums
from auscult.models.importing.card import skeleton
from auscult.models.importing.golden import GOLDEN, Golden, rows_are_independent
from auscult.models.importing.source import CannotImport, Converted, framework

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_LARGE = 1 << 30
"""Bytes from which weights go into a file of their own: protobuf ends at 2 GiB."""
VERSION = "1"


@dataclass(frozen=True, slots=True)
class Imported:
    """What was written."""

    folder: Path
    difference: float
    """The greatest between ONNX Runtime and the source."""
    max_batch_size: int
    not_carried: tuple[str, ...]


def check_name(root: Path, name: str, *, overwrite: bool) -> None:
    """CannotImport where no model of this name can be put into the repository."""
    if not _NAME.fullmatch(name):
        raise CannotImport("name-invalid", f"{name!r}: use letters, digits, '_', '-' and '.' for a model's name")
    if (root / name).exists() and not overwrite:
        raise CannotImport("name-taken", f"the repository has a model {name!r}; choose another name, or --overwrite")


def write(
    root: Path,
    name: str,
    converted: Converted,
    *,
    accept: Callable[[Path], None],
    seed: int = 1,
    overwrite: bool = False,
) -> Imported:
    """Write `root/name`; CannotImport, with nothing written, where ONNX Runtime answers otherwise than the source.

    `accept` is given a repository with nothing but the new model and raises CannotImport where it cannot be served.
    """
    check_name(root, name, overwrite=overwrite)
    new = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=root, prefix=".importing-") as scratch:
            folder = Path(scratch, "repository", name)
            imported = _fill(folder, name, converted, seed)
            accept(folder.parent)
            if (root / name).exists():
                (root / name).rename(Path(scratch, "replaced"))
            folder.rename(root / name)
    except BaseException:
        if new:
            with suppress(OSError):
                root.rmdir()
        raise
    return replace(imported, folder=root / name)


def _fill(folder: Path, name: str, converted: Converted, seed: int) -> Imported:
    graph = folder / VERSION / "model.onnx"
    graph.parent.mkdir(parents=True)
    _save(converted, graph)
    golden = Golden.of(converted)
    session = open_session(graph)
    difference = golden.replay(session)
    batch = converted.max_batch_size
    if batch and not rows_are_independent(golden, session):
        batch = 0
    if not batch and converted.max_batch_size and "sliding_window.roi_size" in converted.parameters:
        raise CannotImport("patches-mixed", "the network's answer for a patch depends on the others of its batch")
    for output, labels in converted.labels.items():
        (folder / _label_file(output)).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    (folder / GOLDEN).write_bytes(golden.small(seed).encode())
    (folder / "config.pbtxt").write_text(configuration(name, converted, batch), encoding="utf-8")
    (folder / "card.yaml").write_text(
        skeleton(name, VERSION, converted.facts, converted.not_carried, converted.framework), encoding="utf-8"
    )
    (folder / SUMS).write_bytes(sums(content(folder)))
    return Imported(folder, difference, batch, converted.not_carried)


def _save(converted: Converted, path: Path) -> None:
    onnx = framework("onnx", "authoring")
    model = converted.model
    large = model.ByteSize() > _LARGE
    onnx.save_model(
        model, path, save_as_external_data=large, all_tensors_to_one_file=True, location=f"{path.name}.data"
    )
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise CannotImport("onnx-invalid", f"the graph is not valid ONNX: {error}") from None


def open_session(path: Path | bytes) -> ort.InferenceSession:
    """Open a graph, a file or its bytes, as the service does on the CPU."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.inter_op_num_threads = 1
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CannotImport("onnx-fails", f"ONNX Runtime cannot load the graph: {error}") from error


def configuration(name: str, converted: Converted, max_batch_size: int) -> str:
    """Return Triton's model configuration in protobuf text format."""
    lines = [
        f"name: {_text(name)}",
        'platform: "onnxruntime_onnx"',
        'backend: "onnxruntime"',
        f"max_batch_size: {max_batch_size}",
    ]
    graph = converted.model.graph
    for kind, tensors in (("input", graph.input), ("output", graph.output)):
        for tensor in tensors:
            datatype, shape = signature(tensor)
            dims = ", ".join(map(str, shape[1:] if max_batch_size else shape))
            labelled = kind == "output" and tensor.name in converted.labels
            told = f" label_filename: {_text(_label_file(tensor.name))}" if labelled else ""
            lines.append(f"{kind} {{ name: {_text(tensor.name)} data_type: TYPE_{datatype} dims: [ {dims} ]{told} }}")
    for key, value in sorted(converted.parameters.items()):
        lines.append(f"parameters {{ key: {_text(key)} value {{ string_value: {_text(value)} }} }}")
    return "\n".join(lines) + "\n"


def _label_file(output: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", output) + "_labels.txt"


def _text(value: str) -> str:
    # A JSON string is also a string of protobuf's text format.
    return json.dumps(value, ensure_ascii=False)
