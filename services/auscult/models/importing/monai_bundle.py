"""A MONAI bundle: `configs/metadata.json`, `configs/inference.json` or `.yaml`, `models/model.pt` or `model.ts`.

The network is one of MONAI's own, made of its `network_def`, or the TorchScript that the bundle brings. Code that
comes with a bundle is not run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from auscult.domain.model_card import Performance
from auscult.models.importing import graph, monai_transforms, networks, window
from auscult.models.importing.bundle_config import BundleConfig, target
from auscult.models.importing.golden import random_array
from auscult.models.importing.networks import EXTRA
from auscult.models.importing.source import NETWORK, CannotImport, Converted, Facts, Request, framework


def convert(request: Request) -> Converted:
    """Return the network, and its sliding window as far as it can be declared."""
    torch = framework("torch", EXTRA)
    folder = request.source
    metadata, config = BundleConfig.read(folder, "metadata"), BundleConfig.read(folder, "inference")
    formats = metadata.get("network_data_format") or {}
    channels = _channels(formats, "inputs")
    sliding = {} if request.network_only else monai_transforms.sliding(config)
    declared = monai_transforms.before(config, channels, request) if sliding else monai_transforms.Declared()
    patch = _patch(sliding, formats, request)
    module = _network(folder, config)
    given = {"image": random_array(np.dtype("f4"), (2, channels, *patch), request.seed)}
    expected = networks.answers(module, given)
    if len(expected) != 1:
        raise CannotImport("many-outputs", f"the network returns {len(expected)} outputs; one is expected")
    classes = next(iter(expected.values())).shape[1]
    if sliding:
        monai_transforms.after(config, classes, declared)
        declared.keys |= sliding
    else:
        declared.notes.append("Only the network is imported: the caller does what comes before and after.")
    model = networks.to_onnx(module, given, list(expected), open_batch=True)
    graph.check(model)
    names = request.labels or _names(formats, classes)
    return Converted(
        model=model,
        given=given,
        expected=expected,
        framework=f"PyTorch {torch.__version__}, MONAI bundle",
        tolerance=NETWORK,
        facts=_facts(metadata),
        parameters={
            **window.parameters(declared.keys),
            **({"channel_names": json.dumps(named)} if (named := _definition(formats, "inputs")) else {}),
            **({"class_names": json.dumps(names)} if names else {}),
        },
        labels={"output": names} if names else {},
        max_batch_size=window.LARGEST_BATCH,
        not_carried=tuple(declared.notes),
    )


def _network(folder: Path, config: BundleConfig) -> Any:
    weights, scripted = folder / "models" / "model.pt", folder / "models" / "model.ts"
    if scripted.is_file() and not weights.is_file():
        return networks.load_script(scripted)
    if not weights.is_file():
        raise CannotImport("file-missing", "the bundle has neither models/model.pt nor models/model.ts")
    described = config.get("network_def") or config.get("network")
    name = target(described, "monai.networks")
    nets = framework("monai.networks.nets", EXTRA)
    kind = getattr(nets, name, None)
    if not (isinstance(kind, type) and issubclass(kind, framework("torch", EXTRA).nn.Module)):
        raise CannotImport("network-unknown", f"{name} is not one of MONAI's networks")
    arguments = {key: config.value(value) for key, value in described.items() if not key.startswith("_")}
    try:
        module = kind(**arguments)
    except Exception as error:
        raise CannotImport("network-unknown", f"{name} cannot be made as network_def says: {error}") from error
    content = networks.load_weights(weights)
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
    return networks.fill(module, content, "models/model.pt")


def _channels(formats: Mapping[str, Any], side: str) -> int:
    image = _tensor(formats, side)
    channels = image.get("num_channels")
    if not isinstance(channels, int) or channels < 1:
        raise CannotImport("channels-unknown", f"metadata.json: network_data_format.{side} has no num_channels")
    return channels


def _tensor(formats: Mapping[str, Any], side: str) -> Mapping[str, Any]:
    """Return what is said of the first input or output."""
    tensors: Mapping[str, Mapping[str, Any]] = formats.get(side) or {}
    return next(iter(tensors.values()), {})


def _patch(sliding: Mapping[str, str], formats: Mapping[str, Any], request: Request) -> tuple[int, ...]:
    """Return the sizes of what the network takes, without batch and channels."""
    if sliding:
        return tuple(int(size) for size in sliding["roi_size"].split(","))
    if request.inputs:
        return next(iter(request.inputs.values())).shape[2:]
    sizes = _tensor(formats, "inputs").get("spatial_shape") or ()
    if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise CannotImport(
            "input-open",
            f"metadata.json leaves the network's input open ({sizes}); give it, e.g. --input image:FP32:-1,1,96,96",
        )
    return tuple(sizes)


def _definition(formats: Mapping[str, Any], side: str) -> list[str]:
    """Return the names in `channel_def`, in order."""
    image = _tensor(formats, side)
    defined = image.get("channel_def") or {}
    return (
        [str(defined[key]) for key in sorted(defined, key=int)]
        if all(str(key).isdecimal() for key in defined)
        else []
    )


def _names(formats: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    names = _definition(formats, "outputs")
    return tuple(names) if len(names) == classes else ()


def _facts(metadata: BundleConfig) -> Facts:
    def text(key: str) -> str:
        value = metadata.get(key)
        return "; ".join(map(str, value)) if isinstance(value, list) else str(value or "")

    measured = metadata.get("eval_metrics") or {}
    performance = tuple(
        Performance(metric=str(metric), value=float(value), dataset=text("data_source") or "as the bundle states")
        for metric, value in measured.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    )
    return Facts(
        title=text("name"),
        summary=text("description") or text("task"),
        intended_use=text("intended_use"),
        evidence=text("references"),
        license=text("license") or text("copyright"),
        training_data="; ".join(part for part in (text("data_source"), text("data_type")) if part),
        developer=text("authors"),
        performance=performance,
    )
