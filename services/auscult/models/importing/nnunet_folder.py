"""A results folder of nnU-Net v2: `plans.json`, `dataset.json`, `fold_X/checkpoint_final.pth`.

The network is made of the plans by the package that nnU-Net itself uses, dynamic-network-architectures. Folds are one
graph, which averages their logits as nnU-Net does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from auscult.models.importing import graph, networks, window
from auscult.models.importing.golden import random_array
from auscult.models.importing.networks import EXTRA
from auscult.models.importing.nnunet_plans import architecture, configuration, heads, network
from auscult.models.importing.source import NETWORK, CannotImport, Converted, Facts, Request, framework

STEP = 0.5
"""Of a patch: nnU-Net's default."""


def convert(request: Request) -> Converted:
    """Return the network, its sliding window and what nnU-Net does beyond it."""
    torch = framework("torch", EXTRA)
    folder = _results(request.source)
    plans, dataset = _json(folder / "plans.json"), _json(folder / "dataset.json")
    folds = _folds(folder, request)
    checkpoints = [networks.load_weights(fold / request.checkpoint) for fold in folds]
    chosen = {str(checkpoint.get("init_args", {}).get("configuration")) for checkpoint in checkpoints}
    if len(chosen) > 1:
        raise CannotImport("folds-differ", f"the folds are of different configurations: {', '.join(sorted(chosen))}")
    name = chosen.pop()
    config = configuration(plans, name)
    channels = dataset.get("channel_names") or dataset.get("modality") or {}
    classes, regions = heads(dataset)
    _check(config, name, dataset, request)
    declared: dict[str, str] = {}
    notes = ["Only the network is imported: the caller does what comes before and after."]
    if not request.network_only:
        declared, notes = _window(config, plans, request, regions=regions)
        if mirrored := _mirroring(checkpoints[0]):
            declared["mirror_axes"] = mirrored
            runs = 2 ** len(mirrored.split(","))
            notes.append(f"As in nnU-Net each patch runs {runs} times, mirrored; fewer mirror_axes are faster.")
    modules = [
        networks.fill(
            network(architecture(config), len(channels), len(classes)), checkpoint["network_weights"], fold.name
        )
        for fold, checkpoint in zip(folds, checkpoints, strict=True)
    ]
    module = modules[0] if len(modules) == 1 else _average(modules)
    patch = tuple(int(size) for size in config["patch_size"])
    given = {"image": random_array(np.dtype("f4"), (2, len(channels), *patch), request.seed)}
    expected = networks.answers(module, given, ["logits"])
    model = networks.to_onnx(module, given, ["logits"], open_batch=True)
    graph.check(model)
    trainer = str(checkpoints[0].get("trainer_name", "nnUNetTrainer"))
    return Converted(
        model=model,
        given=given,
        expected=expected,
        framework=f"PyTorch {torch.__version__}, nnU-Net {name}",
        tolerance=NETWORK,
        facts=_facts(dataset, plans, name, trainer, folds),
        parameters={
            **window.parameters(declared),
            "channel_names": json.dumps(list(channels.values())),
            "class_names": json.dumps(request.labels or classes),
        },
        labels={"logits": request.labels or classes},
        max_batch_size=window.LARGEST_BATCH,
        not_carried=tuple(notes),
    )


def _results(source: Path) -> Path:
    """Return the folder with the plans: the one given, or the only one below it."""
    if (source / "plans.json").is_file():
        return source
    found = sorted(path.parent for path in source.glob("*/plans.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise CannotImport("configuration-open", f"{source.name} holds several results, {names}; give one of them")
    return found[0]


def _json(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise CannotImport("file-unreadable", f"{path.name}: {error}") from None


def _folds(folder: Path, request: Request) -> list[Path]:
    present = sorted(path.parent for path in folder.glob(f"fold_*/{request.checkpoint}"))
    names = [path.name.removeprefix("fold_") for path in present]
    if not request.folds:
        if len(present) != 1:
            raise CannotImport(
                "folds-open",
                f"folds with {request.checkpoint}: {', '.join(names) or 'none'}; choose with --folds, e.g. --folds "
                f"{','.join(names) or '0'} for the average of all",
            )
        return present
    if missing := sorted(set(request.folds) - set(names)):
        raise CannotImport(
            "fold-missing", f"fold {missing[0]} has no {request.checkpoint}; there are {', '.join(names)}"
        )
    return [folder / f"fold_{name}" for name in request.folds]


def _check(config: Mapping[str, Any], name: str, dataset: Mapping[str, Any], request: Request) -> None:
    if config.get("previous_stage"):
        raise CannotImport(
            "cascade", f"{name} takes the outline of {config['previous_stage']}; cascades cannot be carried over"
        )
    if not (dataset.get("channel_names") or dataset.get("modality")):
        raise CannotImport("channels-unknown", "dataset.json does not name its channels (channel_names)")
    if request.network_only:
        return
    if len(config["patch_size"]) != 3:
        raise CannotImport(
            "two-dimensional",
            f"{name} works on slices; a sliding window has three axes. --network-only leaves it out",
        )


def _average(modules: Sequence[Any]) -> Any:
    torch = framework("torch", EXTRA)

    class Average(torch.nn.Module):  # type: ignore[misc, name-defined] # torch is not known here
        """The mean of the folds' logits."""

        def __init__(self) -> None:
            super().__init__()
            self.folds = torch.nn.ModuleList(modules)

        def forward(self, image: Any) -> Any:
            total = self.folds[0](image)
            for fold in self.folds[1:]:
                total = total + fold(image)
            return total / len(self.folds)

    return Average().eval()


def _window(
    config: Mapping[str, Any], plans: Mapping[str, Any], request: Request, *, regions: bool
) -> tuple[dict[str, str], list[str]]:
    forward = [int(axis) for axis in plans.get("transpose_forward", (0, 1, 2))]
    stored = window.orientation(request.orientation, "nnU-Net")
    declared = {
        "roi_size": window.numbers(config["patch_size"]),
        "overlap": window.number(STEP),
        "mode": "gaussian",
        "sigma_scale": "0.125",
        "padding_mode": "constant",
        "orientation": "".join(stored[axis] for axis in forward),
        "spacing": window.numbers(config["spacing"]),
        "activation": "sigmoid" if regions else "softmax",
        "labels": "threshold" if regions else "argmax",
    }
    notes = [
        "nnU-Net lays its patches evenly over the volume; here they follow one another at half a patch.",
        "nnU-Net resamples images with cubic splines and normalises before; here both are done in one linear step.",
    ]
    clip, subtract, divide, masked = _normalisation(config, plans)
    if clip:
        declared["clip"] = clip
    declared |= {"subtract": subtract, "divide": divide}
    if masked:
        declared["nonzero"] = "true"
    if "std" in divide:
        notes.append(
            "nnU-Net takes mean and standard deviation of the volume cropped to what is not 0"
            + (", with holes filled" if masked else "")
            + f"; here they are those of {'all voxels that are not 0' if masked else 'the whole volume'}."
        )
    if regions:
        notes.append("Labels are one mask for each region; nnU-Net paints them over one another into one map.")
    return declared, notes


def _normalisation(config: Mapping[str, Any], plans: Mapping[str, Any]) -> tuple[str, str, str, bool]:
    """Return clip, subtract and divide by channel, and whether zeros stay out; CannotImport names the scheme."""
    schemes = [str(scheme) for scheme in config["normalization_schemes"]]
    masks = set(map(bool, config.get("use_mask_for_norm", ())))
    if unknown := sorted(set(schemes) - {"CTNormalization", "ZScoreNormalization", "NoNormalization"}):
        raise CannotImport(
            "normalisation-unsupported", f"{unknown[0]} cannot be declared; --network-only leaves it to the caller"
        )
    if len(masks) > 1 or (masks == {True} and set(schemes) != {"ZScoreNormalization"}):
        raise CannotImport(
            "normalisation-unsupported",
            "only some channels are normalised within a mask; --network-only leaves it to the caller",
        )
    clip, subtract, divide = [], [], []
    for channel, scheme in enumerate(schemes):
        if scheme == "CTNormalization":
            measured = plans["foreground_intensity_properties_per_channel"][str(channel)]
            clip.append(window.numbers((measured["percentile_00_5"], measured["percentile_99_5"])))
            subtract.append(window.number(measured["mean"]))
            divide.append(window.number(max(measured["std"], 1e-8)))
        else:
            scored = scheme == "ZScoreNormalization"
            clip.append("")
            subtract.append("mean" if scored else "0")
            divide.append("std" if scored else "1")
    return ";".join(clip) if any(clip) else "", ";".join(subtract), ";".join(divide), masks == {True}


def _mirroring(checkpoint: Mapping[str, Any]) -> str:
    """Return the axes that nnU-Net mirrors patches along, after its transposition: those of the network."""
    return ",".join(str(int(axis)) for axis in checkpoint.get("inference_allowed_mirroring_axes") or ())


def _facts(
    dataset: Mapping[str, Any], plans: Mapping[str, Any], name: str, trainer: str, folds: Sequence[Path]
) -> Facts:
    title = str(plans.get("dataset_name") or dataset.get("name") or "nnU-Net model")
    named = ", ".join(fold.name for fold in folds)
    cases = f"{dataset['numTraining']} cases" if "numTraining" in dataset else ""
    described = " ".join(str(dataset.get(key, "")) for key in ("name", "description")).strip()
    return Facts(
        title=title,
        summary=f"nnU-Net v2 {name} of {title}, {trainer}, {named}.",
        evidence=str(dataset.get("reference", "")),
        license=str(dataset.get("licence") or dataset.get("license") or ""),
        training_data="; ".join(part for part in (described, cases) if part),
    )
