"""MONAI's transforms before and after the network, as far as a sliding window can declare them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from auscult.models.importing import window
from auscult.models.importing.bundle_config import BundleConfig, enabled, target
from auscult.models.importing.source import CannotImport, Request

_PACKAGE = "monai.transforms"
_FORM = {
    *("LoadImage", "EnsureChannelFirst", "EnsureType", "AddChannel", "AsChannelFirst", "ToTensor", "ToDevice"),
    *("Identity", "DeleteItems", "SelectItems", "Invert", "SaveImage", "FromMetaTensor"),
}
"""They bring arrays into form, and the server does the same."""


@dataclass(slots=True)
class Declared:
    """What the transforms declare, and what of them is only nearly so."""

    keys: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def before(config: BundleConfig, channels: int, request: Request) -> Declared:
    """Read the transforms of `preprocessing`; CannotImport names the one that cannot be declared."""
    declared = Declared()
    stored = request.orientation
    for name, component in _transforms(config, "preprocessing"):
        if not _of_image(config, component):
            continue
        if name == "Orientation":
            stored = str(config.value(component.get("axcodes", "")))
        elif name == "Spacing":
            _spacing(config, component, declared)
        elif name in _NORMALISING:
            if "divide" in declared.keys:
                raise _cannot(name, "comes after another normalisation")
            _NORMALISING[name](config, component, channels, declared)
        elif name == "CastToType" and str(component.get("dtype", "")).rpartition(".")[2] in ("float32", "float"):
            continue
        elif name not in _FORM:
            raise _cannot(name, "cannot be declared")
    declared.keys["orientation"] = window.orientation(stored, "the bundle's preprocessing")
    return declared


def after(config: BundleConfig, classes: int, declared: Declared) -> None:
    """Read the transforms of `postprocessing` into `declared`."""
    declared.keys |= {"activation": "none", "labels": "argmax" if classes > 1 else "threshold"}
    for name, component in _transforms(config, "postprocessing"):
        if name in _ANSWERING:
            _ANSWERING[name](config, component, declared)
        elif name not in _FORM:
            raise _cannot(name, "cannot be declared")
    if declared.keys["activation"] == "none":
        declared.notes.append(
            "The bundle does not make probabilities: `probabilities` are the network's own outputs."
        )


def _activate(config: BundleConfig, component: Mapping[str, Any], declared: Declared) -> None:
    if component.get("other") is not None:
        raise _cannot("Activations", "calls a function")
    for kind in ("softmax", "sigmoid"):
        if _flag(config, component, kind):
            declared.keys["activation"] = kind


def _discretise(config: BundleConfig, component: Mapping[str, Any], declared: Declared) -> None:
    if component.get("rounding") is not None:
        raise _cannot("AsDiscrete", "rounds")
    threshold = config.value(component.get("threshold"))
    threshold = threshold[0] if isinstance(threshold, list) else threshold
    if threshold is None or threshold is False:
        return
    declared.keys |= {"labels": "threshold", "threshold": window.number(0.5 if threshold is True else threshold)}


_ANSWERING = {"Activations": _activate, "AsDiscrete": _discretise}


def sliding(config: BundleConfig) -> dict[str, str]:
    """Return the window of the bundle's `inferer`."""
    inferer = config.get("inferer")
    name = target(inferer, "monai.inferers") if inferer else "none"
    if name not in ("SlidingWindowInferer", "SlidingWindowInfererAdapt"):
        raise CannotImport(
            "inferer-unsupported", f"the inferer {name} cannot be declared; --network-only leaves it to the caller"
        )
    roi = config.value(inferer.get("roi_size"))
    if not isinstance(roi, list) or len(roi) != 3 or not all(isinstance(size, int) and size > 0 for size in roi):
        raise CannotImport(
            "two-dimensional", f"the patch {roi} has not three fixed sizes; --network-only leaves the window out"
        )
    declared = {"roi_size": ",".join(map(str, roi))}
    for key in ("overlap", "sigma_scale", "cval"):
        if (value := config.value(inferer.get(key))) is not None:
            declared[key] = window.numbers(value) if isinstance(value, list) else window.number(value)
    for key in ("mode", "padding_mode"):
        if (value := config.value(inferer.get(key))) is not None:
            declared[key] = str(value).rpartition(".")[2].lower()
    return declared


def _spacing(config: BundleConfig, component: Mapping[str, Any], declared: Declared) -> None:
    pixdim = config.value(component.get("pixdim"))
    if isinstance(pixdim, int | float):
        pixdim = [pixdim] * 3
    if not isinstance(pixdim, list) or len(pixdim) != 3 or not all(size > 0 for size in pixdim):
        raise _cannot("Spacing", f"to {pixdim} keeps some of the image's own spacing")
    mode = config.value(component.get("mode", "bilinear"))
    mode = mode[0] if isinstance(mode, list) else mode
    if str(mode).rpartition(".")[2].lower() not in ("bilinear", "1"):
        raise _cannot("Spacing", f"interpolates with mode {mode}, and volumes are resampled linearly")
    declared.keys["spacing"] = window.numbers(pixdim)


def _scale_range(config: BundleConfig, component: Mapping[str, Any], _channels: int, declared: Declared) -> None:
    low, high = (float(config.value(component[key])) for key in ("a_min", "a_max"))
    bottom, top = (config.value(component.get(key)) for key in ("b_min", "b_max"))
    bottom, top = (0.0, 1.0) if bottom is None or top is None else (float(bottom), float(top))
    if low >= high or bottom == top:
        raise _cannot("ScaleIntensityRange", f"maps {low:g} … {high:g} to {bottom:g} … {top:g}")
    divide = (high - low) / (top - bottom)
    if config.value(component.get("clip", False)):
        declared.keys["clip"] = window.numbers((low, high))
        if "spacing" in declared.keys:
            declared.notes.append("The bundle clips intensities after it resamples; here before.")
    declared.keys |= {"subtract": window.number(low - bottom * divide), "divide": window.number(divide)}


def _normalise(config: BundleConfig, component: Mapping[str, Any], channels: int, declared: Declared) -> None:
    nonzero, each = (_flag(config, component, key) for key in ("nonzero", "channel_wise"))
    given = [config.value(component.get(key)) for key in ("subtrahend", "divisor")]
    if channels > 1 and not each and None in given:
        raise _cannot("NormalizeIntensity", "takes mean and standard deviation of all channels together")
    for key, value, measured in zip(("subtract", "divide"), given, ("mean", "std"), strict=True):
        values = value if isinstance(value, list) else [value]
        declared.keys[key] = ";".join(measured if each is None else window.number(each) for each in values)
    if nonzero:
        declared.keys["nonzero"] = "true"
    if None in given and "spacing" in declared.keys:
        declared.notes.append("The bundle takes mean and standard deviation after it resamples; here before.")


_NORMALISING = {"ScaleIntensityRange": _scale_range, "NormalizeIntensity": _normalise}


def _transforms(config: BundleConfig, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return each transform's name, without the ending of those on dictionaries, and its arguments."""
    waiting = [config.get(key)]
    while waiting:
        component = config.follow(waiting.pop(0))
        if component is None:
            continue
        name = target(component, _PACKAGE)
        if not enabled(component):
            continue
        if name == "Compose":
            transforms = config.follow(component.get("transforms", []))
            waiting = [*transforms, *waiting]
            continue
        for ending in ("Dict", "d", "D"):
            if name.endswith(ending):
                name = name.removesuffix(ending)
                break
        yield name, component


def _of_image(config: BundleConfig, component: Mapping[str, Any]) -> bool:
    keys = config.value(component.get("keys", "image"))
    return "image" in ([keys] if isinstance(keys, str) else keys)


def _flag(config: BundleConfig, component: Mapping[str, Any], key: str) -> bool:
    value = config.value(component.get(key, False))
    return bool(value[0] if isinstance(value, list) else value)


def _cannot(name: str, why: str) -> CannotImport:
    return CannotImport(
        "transform-unsupported", f"the transform {name} {why}; --network-only leaves all transforms to the caller"
    )
