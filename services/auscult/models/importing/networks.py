"""A torch module as ONNX, with the answers of torch itself."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from auscult.models.importing.source import CannotImport, Tensors, framework

if TYPE_CHECKING:
    from onnx import ModelProto

EXTRA = "import-torch"
OPSET = 18


def answers(module: Any, given: Tensors, names: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Return what the module answers in evaluation mode; outputs beyond `names` are numbered."""
    torch = framework("torch", EXTRA)
    try:
        with torch.inference_mode(), _quiet():
            result = module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in given.values()))
    except Exception as error:
        raise CannotImport(
            "module-fails", f"the module cannot be run on the example: {_first_line(error)}"
        ) from error
    leaves = framework("torch.utils._pytree", EXTRA).tree_leaves(result)
    if not leaves or not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
        raise CannotImport("output-not-tensors", "the module returns something else than tensors")
    named = names or (["output"] if len(leaves) == 1 else [f"output_{index}" for index in range(len(leaves))])
    return {name: leaf.numpy() for name, leaf in zip(named, leaves, strict=True)}


def to_onnx(module: Any, given: Tensors, outputs: Sequence[str], *, open_batch: bool) -> ModelProto:
    """Export the module; with `open_batch` the first axis of all tensors is left open.

    TorchScript goes through torch's older exporter, which alone takes it.
    """
    torch, onnx = framework("torch", EXTRA), framework("onnx", EXTRA)
    scripted = isinstance(module, torch.jit.ScriptModule)
    names = list(given)
    if scripted:
        axes = {name: {0: "batch"} for name in (*names, *outputs)} if open_batch else None
        options: dict[str, Any] = {"dynamo": False, "opset_version": OPSET, "dynamic_axes": axes}
    else:
        framework("onnxscript", EXTRA)
        free = torch.export.Dim.DYNAMIC
        exported = isinstance(module, torch.export.ExportedProgram)
        shapes = None if exported or not open_batch else tuple({0: free} for _ in names)
        options = {"dynamo": True, "opset_version": OPSET, "dynamic_shapes": shapes, "external_data": True}
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in given.values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        try:
            with _quiet():
                torch.onnx.export(
                    module, tensors, path, input_names=names, output_names=list(outputs), verbose=False, **options
                )
        except Exception as error:
            raise CannotImport("export-fails", f"torch cannot export the module to ONNX: {_cause(error)}") from error
        model: ModelProto = onnx.load_model(path)
    # The exporter notes where in the source code each node is from: paths of the machine that exports.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.metadata_props[:], model.metadata_props[:]
    return model


def load_script(path: Path) -> Any:
    """Read TorchScript."""
    torch = framework("torch", EXTRA)
    try:
        with _quiet():
            return torch.jit.load(path, map_location="cpu").eval()
    except Exception as error:
        raise CannotImport(
            "module-unreadable", f"{path.name} cannot be read as TorchScript: {_first_line(error)}"
        ) from error


def load_weights(path: Path) -> Mapping[str, Any]:
    """Read a checkpoint without running code: tensors, numbers and texts alone; CannotImport where it holds more."""
    torch = framework("torch", EXTRA)
    core = framework("numpy._core.multiarray", EXTRA)
    makers = [core.scalar, core._reconstruct]  # noqa: SLF001 - pickles name it so
    numbers = [np.dtype, np.ndarray, *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "bool"))]
    # Files written with numpy 1 say numpy.core.
    known = [*numbers, *makers, *((maker, f"numpy.core.multiarray.{maker.__name__}") for maker in makers)]
    try:
        with torch.serialization.safe_globals(known):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CannotImport(
            "weights-not-plain", f"{path.name} holds more than weights and is not loaded: {_first_line(error)}"
        ) from error
    if not isinstance(content, Mapping):
        raise CannotImport("weights-not-plain", f"{path.name} holds a {type(content).__name__}, not weights by name")
    return content


def fill(module: Any, weights: Mapping[str, Any], where: str) -> Any:
    """Put the weights into the module and return it in evaluation mode; CannotImport where they do not fit."""
    torch = framework("torch", EXTRA)
    plain = {
        key.removeprefix("module.").removeprefix("_orig_mod."): value
        for key, value in weights.items()
        if isinstance(value, torch.Tensor)
    }
    try:
        module.load_state_dict(plain)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:400]
        raise CannotImport(
            "weights-do-not-fit", f"{where}: the weights are those of another network: {reason}"
        ) from None
    return module.float().eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's progress and its advice to developers of models from the caller's terminal."""
    logger = logging.getLogger("torch")
    level = logger.level
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
