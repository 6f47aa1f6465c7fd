"""Write the reference models as a repository in Triton's layout.

    <name>/config.pbtxt  <name>/card.yaml  <name>/SHA256SUMS  <name>/<version>/model.onnx

A model's inputs, outputs and parameters come from its graph, its version from its card: nothing is said twice.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from auscult.platform.errors import RefuseToStart

# What is slow to import is imported where it is used, so that finding nothing to do takes no time.
if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

HERE = Path(__file__).parent
SUMS = "SHA256SUMS"
RECORD = ".authored"
"""In the repository: the digest of all from which it was built."""
DETERMINING = ("onnx", "spox", "numpy")
"""The libraries whose version may change a graph's bytes."""


@dataclass(frozen=True, slots=True)
class Authored:
    """One model of ours: `author` is `module:function` below this package and returns an onnx.ModelProto."""

    name: str
    author: str
    card: str
    """Path below this package."""
    max_batch_size: int = 0
    """Above 0: the first axis of each tensor is a batch, of up to so many rows."""


MODELS = (
    Authored("brock_full", "risk.brock:full", "risk/brock_full.yaml", max_batch_size=1024),
    Authored(
        "brock_full_no_spiculation",
        "risk.brock:full_no_spiculation",
        "risk/brock_full_no_spiculation.yaml",
        max_batch_size=1024,
    ),
    Authored("radiomics_region", "radiomics.region:author", "radiomics/radiomics_region.yaml"),
    Authored("radiomics_texture", "radiomics.texture:author", "radiomics/radiomics_texture.yaml"),
    Authored("lung_nodule_seg", "segmentation.graph:build", "segmentation/card.yaml"),
)


def build_repository(root: Path, *, if_changed: bool = False) -> list[str]:
    """Write each model below `root` and return the names of those whose folders changed.

    A folder is built beside its place and renamed into it, so that a server never reads half a model.
    `if_changed`: do nothing, quickly, where `root` was built from the same sources and is still whole.
    RefuseToStart where the libraries of the extra `authoring` are missing.
    """
    digest = authoring_digest()
    if if_changed and _up_to_date(root, digest):
        return []
    root.mkdir(parents=True, exist_ok=True)
    changed = []
    with tempfile.TemporaryDirectory(dir=root, prefix=".building-") as scratch:
        for model in MODELS:
            built = Path(scratch, model.name)
            write(model, built)
            if _put(built, root / model.name, aside=Path(scratch, f"{model.name}.old")):
                changed.append(model.name)
        record = Path(scratch, RECORD)
        record.write_text(f"{digest}\n", encoding="utf-8")
        record.replace(root / RECORD)
    return changed


def write(model: Authored, folder: Path) -> None:
    """Write one model's folder."""
    from auscult.domain.model_card import ModelCard  # noqa: PLC0415 - slow

    text = (HERE / model.card).read_text(encoding="utf-8")
    card = ModelCard.parse(text)
    if card.name != model.name:
        raise ValueError(f"{model.card} is the card of {card.name!r}, not of {model.name!r}")
    graph = _author(model.author)()
    (folder / card.version).mkdir(parents=True)
    (folder / card.version / "model.onnx").write_bytes(graph.SerializeToString(deterministic=True))
    (folder / "config.pbtxt").write_text(configuration(model, graph), encoding="utf-8")
    (folder / "card.yaml").write_text(text, encoding="utf-8")
    (folder / SUMS).write_bytes(sums(content(folder)))


def configuration(model: Authored, graph: ModelProto) -> str:
    """Return Triton's model configuration in protobuf text format."""
    lines = [
        f'name: "{model.name}"',
        'platform: "onnxruntime_onnx"',
        'backend: "onnxruntime"',
        f"max_batch_size: {model.max_batch_size}",
    ]
    for kind, tensors in (("input", graph.graph.input), ("output", graph.graph.output)):
        for tensor in tensors:
            datatype, shape = signature(tensor)
            dims = shape[1:] if model.max_batch_size else shape
            lines.append(
                f'{kind} {{ name: "{tensor.name}" data_type: TYPE_{datatype} dims: [ {", ".join(map(str, dims))} ] }}'
            )
    for entry in sorted(graph.metadata_props, key=lambda entry: entry.key):
        # A JSON string is also a string of protobuf's text format.
        text = json.dumps(entry.value, ensure_ascii=False)
        lines.append(f'parameters {{ key: "{entry.key}" value {{ string_value: {text} }} }}')
    return "\n".join(lines) + "\n"


def signature(tensor: ValueInfoProto) -> tuple[str, list[int]]:
    """Return Triton's name of the element type, and the shape with -1 for any size."""
    from onnx import TensorProto  # noqa: PLC0415 - slow

    kind = tensor.type.tensor_type
    name = TensorProto.DataType.Name(kind.elem_type)
    names = {"FLOAT": "FP32", "DOUBLE": "FP64", "FLOAT16": "FP16"}
    return names.get(name, name), [dim.dim_value or -1 for dim in kind.shape.dim]


def _author(path: str) -> Callable[[], ModelProto]:
    module, _, function = path.partition(":")
    try:
        author: Callable[[], ModelProto] = getattr(import_module(f"{__package__}.{module}"), function)
    except ModuleNotFoundError as error:
        if error.name in DETERMINING:
            raise RefuseToStart(
                "authoring-missing", f"{error.name} is not installed; install auscult[authoring] to build models"
            ) from None
        raise
    return author


def _put(built: Path, place: Path, *, aside: Path) -> bool:
    """Move `built` to `place` and what was there to `aside`; False where both are the same."""
    if content(built) == content(place):
        return False
    if place.exists():
        place.rename(aside)
    built.rename(place)
    return True


def _up_to_date(root: Path, digest: str) -> bool:
    record = root / RECORD
    if not record.is_file() or record.read_text(encoding="utf-8").strip() != digest:
        return False
    return all(_whole(root / model.name) for model in MODELS)


def _whole(folder: Path) -> bool:
    """Whether the folder holds exactly what its digests say."""
    found = content(folder)
    return found.pop(SUMS, None) == sums(found)


def sums(files: Mapping[str, bytes]) -> bytes:
    """Return what `sha256sum` writes for these files."""
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {path}\n" for path, data in sorted(files.items())).encode()


def content(folder: Path) -> dict[str, bytes]:
    """Return each file of the folder by its relative path; nothing where there is no folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def authoring_digest() -> str:
    """SHA-256, in hex, of all that decides what is built: this package's files, the features' table, libraries."""
    files = [path for path in HERE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    files += [HERE.parent / "domain" / name for name in ("ibsi.py", "ibsi_features.py")]
    digest = hashlib.sha256(sums({path.relative_to(HERE.parent).as_posix(): path.read_bytes() for path in files}))
    for library in DETERMINING:
        digest.update(f"{library} {_installed(library)}\n".encode())
    return digest.hexdigest()


def _installed(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "absent"
