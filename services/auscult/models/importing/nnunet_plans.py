"""What nnU-Net's plans say: the configuration, the network's architecture, and what its outputs are."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from auscult.models.importing.networks import EXTRA
from auscult.models.importing.source import CannotImport, framework

_PACKAGE = "dynamic_network_architectures.architectures."


def configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the configuration with what it inherits."""
    configurations = plans.get("configurations", {})
    found: dict[str, Any] = {}
    waiting: str | None = name
    for _ in configurations:
        if waiting not in configurations:
            raise CannotImport(
                "configuration-unknown",
                f"the plans have no configuration {waiting}; they have {', '.join(configurations)}",
            )
        found = {**configurations[waiting], **found}
        waiting = configurations[waiting].get("inherits_from")
        if waiting is None:
            return found
    raise CannotImport(
        "configuration-unknown", f"the plans' configuration {name} inherits from itself or from nothing"
    )


def architecture(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the network's class and arguments, as plans since nnU-Net 2.4 state them; older ones are translated."""
    if "architecture" in config:
        found: Mapping[str, Any] = config["architecture"]
        return found
    kind = str(config.get("UNet_class_name"))
    if kind not in ("PlainConvUNet", "ResidualEncoderUNet"):
        raise CannotImport("architecture-unsupported", f"the network {kind} is not one of nnU-Net's own")
    stages = len(config["n_conv_per_stage_encoder"])
    axes = len(config["patch_size"])
    convolutions = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    return {
        "network_class_name": f"{_PACKAGE}unet.{kind}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [
                min(config["UNet_base_num_features"] * 2**stage, config["unet_max_num_features"])
                for stage in range(stages)
            ],
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": config["conv_kernel_sizes"],
            "strides": config["pool_op_kernel_sizes"],
            convolutions: config["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": config["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def network(described: Mapping[str, Any], channels: int, classes: int) -> Any:
    """Make the network without its weights; nothing but torch's layers and nnU-Net's architectures is imported."""
    framework("dynamic_network_architectures", EXTRA)
    kind = str(described["network_class_name"])
    if not kind.startswith(_PACKAGE):
        raise CannotImport(
            "architecture-unsupported", f"the network {kind} is not one of nnU-Net's own ({_PACKAGE}…)"
        )
    arguments = dict(described["arch_kwargs"])
    for key in described.get("_kw_requires_import", ()):
        if (path := arguments.get(key)) is not None:
            if not str(path).startswith("torch.nn."):
                raise CannotImport(
                    "architecture-unsupported", f"the network's {key} is {path}, not a layer of torch.nn"
                )
            arguments[key] = _named(str(path))
    try:
        return _named(kind)(input_channels=channels, num_classes=classes, **{**arguments, "deep_supervision": False})
    except (TypeError, ValueError, AssertionError) as error:
        raise CannotImport("architecture-unsupported", f"{kind} cannot be made of these plans: {error}") from error


def heads(dataset: Mapping[str, Any]) -> tuple[tuple[str, ...], bool]:
    """Return the names of the network's outputs in order, and whether they are regions, which may overlap."""
    labels = {str(name): value for name, value in dataset.get("labels", {}).items() if name != "ignore"}
    if not labels:
        raise CannotImport("labels-unknown", "dataset.json does not name its labels")
    if any(isinstance(value, list) and len(value) > 1 for value in labels.values()):
        return tuple(name for name, value in labels.items() if value not in (0, [0])), True
    return tuple(sorted(labels, key=lambda name: int(labels[name]))), False


def _named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise CannotImport("architecture-unsupported", f"there is no {path} in what is installed") from None
