"""A torch module in one file: `torch.export` (`.pt2`), TorchScript, or a pickled module that the caller trusts."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from auscult.models.importing import graph, networks
from auscult.models.importing.golden import random_array
from auscult.models.importing.networks import EXTRA
from auscult.models.importing.source import NETWORK, CannotImport, Converted, Facts, Request, Tensors, framework

ROWS = 3
"""Of the example where the batch is open: neither 1, which exporters take for a constant, nor a size of the model."""
_TYPES = {"FP16": "f2", "FP32": "f4", "FP64": "f8", "UINT8": "u1", "INT8": "i1", "INT16": "i2", "INT32": "i4"}
_TYPES |= {"INT64": "i8", "BOOL": "?"}


def convert(request: Request) -> Converted:
    """Return the module as ONNX."""
    torch = framework("torch", EXTRA)
    module, kind = _load(request)
    if kind == "torch.export":
        given = _exported_example(module, request)
        runnable, open_batch = module.module(), False
    else:
        given = _example(request, kind)
        runnable = module
        open_batch = all(wanted.shape[:1] == (-1,) for wanted in request.inputs.values())
    expected = networks.answers(runnable, given)
    model = networks.to_onnx(module, given, list(expected), open_batch=open_batch)
    graph.check(model)
    first = next(iter(expected))
    return Converted(
        model=model,
        given=given,
        expected=expected,
        framework=f"PyTorch {torch.__version__}",
        tolerance=NETWORK,
        facts=Facts(summary=f"A {kind} module imported from PyTorch; what it is for is not documented yet."),
        labels={first: request.labels} if request.labels else {},
        max_batch_size=graph.batch(model, 8),
    )


def _load(request: Request) -> tuple[Any, str]:
    torch = framework("torch", EXTRA)
    path = request.source
    kind = _kind(path)
    if kind == "TorchScript":
        return networks.load_script(path), kind
    if kind == "torch.export":
        try:
            return torch.export.load(path), kind
        except Exception as error:
            raise CannotImport("module-unreadable", f"{path.name} cannot be read as {kind}: {error}") from error
    if not request.trust_pickle:
        _refuse_pickle(path)
    try:
        module = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise CannotImport("module-unreadable", f"{path.name} cannot be unpickled: {error}") from error
    if not isinstance(module, torch.nn.Module):
        raise CannotImport(
            "weights-alone",
            f"{path.name} holds a {type(module).__name__}, not a module; save it with torch.export.save",
        )
    return module.float().eval(), type(module).__name__


def _refuse_pickle(path: Path) -> None:
    """Say what the file holds, without running it: weights alone, or a module that only code can bring back."""
    try:
        networks.load_weights(path)
    except CannotImport as error:
        raise CannotImport(
            "pickle-not-trusted",
            f"{path.name} is a pickle with more than weights: loading it runs whatever code it holds. Save the "
            "module with torch.export.save (.pt2) or torch.jit.save, or pass --trust-pickle if you know who made it",
        ) from error
    raise CannotImport(
        "weights-alone",
        f"{path.name} holds weights without the network they belong to; save the module with torch.export.save "
        "(.pt2), or import the folder that describes it (a MONAI bundle, an nnU-Net results folder)",
    )


def _kind(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        return "pickle"
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2] or name for name in archive.namelist()}
    if "constants.pkl" in names:
        return "TorchScript"
    if names & {"archive_format", "serialized_exported_program.json"}:
        return "torch.export"
    return "pickle"


def _example(request: Request, kind: str) -> Tensors:
    if not request.inputs:
        raise CannotImport(
            "input-unknown",
            f"{kind} does not say what the module takes; say so in its order, e.g. --input image:FP32:-1,1,96,96,96",
        )
    made = {}
    for number, (name, wanted) in enumerate(request.inputs.items()):
        if name in request.example:
            made[name] = request.example[name]
            continue
        sizes = (ROWS if wanted.shape[:1] == (-1,) else wanted.shape[0], *wanted.shape[1:]) if wanted.shape else ()
        if -1 in sizes or wanted.dtype not in _TYPES:
            raise CannotImport(
                "input-open",
                f"input {name!r}: only the first size may be -1, and the type one of {', '.join(_TYPES)}",
            )
        made[name] = random_array(np.dtype(_TYPES[wanted.dtype]), tuple(sizes), request.seed + number)
    return made


def _exported_example(program: Any, request: Request) -> Tensors:
    """Return inputs of the sizes that the program was exported with."""
    arguments, keywords = program.example_inputs or ((), {})
    names = list(program.graph_signature.user_inputs)
    if keywords or not arguments or len(arguments) != len(names):
        raise CannotImport("input-unknown", "the program's inputs are not positional tensors with examples")
    made: dict[str, Any] = {}
    for number, (name, tensor) in enumerate(zip(names, arguments, strict=True)):
        made[name] = request.example.get(name)
        if made[name] is None:
            made[name] = random_array(tensor.numpy().dtype, tuple(tensor.shape), request.seed + number)
    return made
