"""How a model of patches declares that it is run over whole volumes: parameters of its `config.pbtxt`.

`input`, `output` and `max_batch_size` stay those of the graph, so that Triton loads the folder too, and serves its
patches: it keeps parameters that it does not know. Here the model takes a whole volume in one request, and the
parameters say how the patches are cut, normalised and blended. They are named as MONAI's `sliding_window_inference`
names them, have its defaults, and mean the same:

    parameters { key: "sliding_window.roi_size" value { string_value: "96,96,96" } }

| key, each behind `sliding_window.` | value | where it is not given |
| --- | --- | --- |
| `roi_size` | the patch, three sizes; this key makes it a model of volumes | |
| `overlap` | share of the patch, one or three numbers, 0 <= n < 1 | 0.25 |
| `mode` | `constant` or `gaussian` | constant |
| `sigma_scale` | standard deviation by size of the patch, one or three numbers | 0.125 |
| `sw_batch_size` | patches in one run, at most `max_batch_size` | max_batch_size, or 1 |
| `mirror_axes` | axes of the graph, such as `0,1,2`: scores are means over mirrored patches, as nnU-Net's | none |
| `padding_mode` | `constant`, `reflect`, `replicate` or `circular`: a volume smaller than a patch | constant |
| `cval` | what `constant` pads with, after normalisation | 0 |
| `orientation` | where each axis that the graph takes increases to, as nibabel's axis codes, e.g. `RAS` | SPL |
| `spacing` | mm, one or three numbers: resample to it, linearly; and the results back | as it comes |
| `clip` | `LOW,HIGH`, the first step of normalisation | none |
| `subtract` | a number, or `mean`: of the clipped volume | 0 |
| `divide` | a number, or `std`: of the clipped volume, population | 1 |
| `nonzero` | `true`: voxels that are 0 stay 0 and do not count for mean and std | false |
| `activation` | `softmax` over channels, `sigmoid` or `none`, after blending | softmax; sigmoid of 1 channel |
| `labels` | `argmax` over channels, or `threshold` for each | argmax; threshold of 1 channel |
| `threshold` | probability from which a label is 1 | 0.5 |

`clip`, `subtract` and `divide` are one value for all channels, or one for each, parted by `;`. Three numbers are in
the order of the graph's axes. Mean and std are those of the volume as it comes, before it is resampled.

What a client sees (ModelMetadata) is then the volume, without a batch:

- input of the graph's name, `[channels, -1, -1, -1]`: axes (z, y, x) of patient LPS, so that z increases to S, y to
  P, x to L. Besides the datatype that is told, INT8, UINT8, INT16, UINT16, FP16 and FP32 are taken;
- input `spacing`, FP32 `[3]`, mm along (z, y, x), where the model declares a spacing;
- output `labels`, UINT8: `[1, z, y, x]` for argmax, `[channels, z, y, x]` for threshold;
- output `probabilities`, FP32: `[channels, z, y, x]`. Only outputs that are asked for are computed.

Both outputs lie on the input's own grid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from auscult.inference.config_checks import WrongModelError
from auscult.inference.model_config import Signature
from auscult.inference.pb import model_config_pb2 as pb
from auscult.inference.pb import open_inference_grpc_pb2 as pb_infer
from auscult.inference.tensors import ANY, DATATYPES, TensorSpec

PREFIX = "sliding_window."
LABELS, PROBABILITIES, SPACING = "labels", "probabilities", "spacing"

TAKEN = ("INT8", "UINT8", "INT16", "UINT16", "FP16", "FP32")
"""Datatypes of volumes: those whose values FP32 holds exactly."""

_KEYS = {
    *("roi_size", "overlap", "mode", "sigma_scale", "sw_batch_size", "mirror_axes", "padding_mode", "cval"),
    *("orientation", "spacing", "clip", "subtract", "divide", "nonzero", "activation", "labels", "threshold"),
}
_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))
_OURS = "SPL"
_NUMPY_PADDING = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}

Three = tuple[float, float, float]
Sizes = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Normalisation:
    """One channel's intensities: clipped, then `(x - subtract) / divide`. None: the volume's own mean or std."""

    clip: tuple[float, float] | None
    subtract: float | None
    divide: float | None
    nonzero: bool


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """What a model declares. Triples are in the order of the graph's axes."""

    image: str
    """The graph's input."""
    scores: str
    """The graph's output."""
    dtype: np.dtype[Any]
    """Of the graph's input."""
    channels: int
    classes: int
    """Channels of the graph's output."""
    roi_size: Sizes
    overlap: Three
    gaussian: bool
    sigma_scale: Three
    sw_batch_size: int
    mirror_axes: tuple[int, ...]
    """Of the graph's three: patches are mirrored along each set of them, the empty one too."""
    padding_mode: str
    """As numpy.pad names it."""
    cval: float
    axes: Sizes
    """For each axis of the graph which one of the volume's (z, y, x) it is."""
    flips: tuple[bool, bool, bool]
    """Whether that axis runs the other way."""
    spacing: Three | None
    normalisation: tuple[Normalisation, ...]
    """For each channel."""
    activation: str
    argmax: bool
    threshold: float

    @property
    def signature(self) -> Signature:
        """What a request takes and gives."""
        return self._signature(_protocol(self.dtype))

    def signature_for(self, tensors: Iterable[pb_infer.ModelInferRequest.InferInputTensor]) -> Signature:
        """Return the signature with the datatype that the image of a request has, if that is one of `TAKEN`."""
        given = next((tensor.datatype for tensor in tensors if tensor.name == self.image), "")
        return self._signature(given if given in TAKEN else _protocol(self.dtype))

    def _signature(self, datatype: str) -> Signature:
        image = TensorSpec(self.image, DATATYPES[datatype], (self.channels, ANY, ANY, ANY))
        spacing = (TensorSpec(SPACING, DATATYPES["FP32"], (3,)),) if self.spacing else ()
        labels = TensorSpec(LABELS, DATATYPES["UINT8"], (1 if self.argmax else self.classes, ANY, ANY, ANY))
        probabilities = TensorSpec(PROBABILITIES, DATATYPES["FP32"], (self.classes, ANY, ANY, ANY))
        return Signature((image, *spacing), (labels, probabilities), 0)


def declared(config: pb.ModelConfig) -> SlidingWindow | None:
    """Return what the configuration declares, None for a model that has no window; WrongModelError."""
    given = {
        key.removeprefix(PREFIX): parameter.string_value.strip()
        for key, parameter in config.parameters.items()
        if key.startswith(PREFIX)
    }
    if not given:
        return None
    if unknown := sorted(given.keys() - _KEYS):
        raise _wrong(unknown[0], f"is not known; there are {', '.join(sorted(_KEYS))}")
    if len(config.input) != 1 or len(config.output) != 1:
        raise WrongModelError("config.pbtxt: a model with a sliding window has one input and one output")
    (image,), (scores,) = config.input, config.output
    if image.HasField("reshape") or scores.HasField("reshape"):
        raise WrongModelError("config.pbtxt: a model with a sliding window has the graph's own shape, not a reshape")
    channels, sizes = _channels(image, config.max_batch_size)
    classes, given_sizes = _channels(scores, config.max_batch_size)
    if classes > 256:
        raise WrongModelError(f"config.pbtxt: output {scores.name!r} has {classes} channels; labels hold 256")
    roi = _integers(given, "roi_size")
    for tensor, dims in ((image, sizes), (scores, given_sizes)):
        if any(size not in (ANY, side) for size, side in zip(dims, roi, strict=True)):
            raise _wrong("roi_size", f"is {list(roi)}, the sizes of {tensor.name!r} are {dims}")
        if tensor.data_type not in (pb.TYPE_FP32, pb.TYPE_FP16):
            name = pb.DataType.Name(tensor.data_type)
            raise WrongModelError(f"config.pbtxt: {tensor.name!r} is {name}; a sliding window needs FP32 or FP16")
    dtype = pb.DataType.Name(image.data_type)
    axes, flips = _orientation(given.get("orientation", _OURS))
    activation = _choice(given, "activation", ("softmax", "sigmoid", "none"), 0 if classes > 1 else 1)
    return SlidingWindow(
        image=image.name,
        scores=scores.name,
        dtype=DATATYPES[dtype.removeprefix("TYPE_")].numpy,
        channels=channels,
        classes=classes,
        roi_size=roi,
        overlap=_three(given, "overlap", "0.25", 0, 1),
        gaussian=_choice(given, "mode", ("constant", "gaussian"), 0) == "gaussian",
        sigma_scale=_three(given, "sigma_scale", "0.125", np.nextafter(0, 1), np.inf),
        sw_batch_size=_batch(given, config, image),
        mirror_axes=_axes(given.get("mirror_axes", "")),
        padding_mode=_NUMPY_PADDING[_choice(given, "padding_mode", tuple(_NUMPY_PADDING), 0)],
        cval=_number("cval", given.get("cval", "0")),
        axes=axes,
        flips=flips,
        spacing=_three(given, "spacing", "", np.nextafter(0, 1), np.inf) if "spacing" in given else None,
        normalisation=_normalisation(given, channels),
        activation=activation,
        argmax=_choice(given, "labels", ("argmax", "threshold"), 0 if classes > 1 else 1) == "argmax",
        threshold=_number("threshold", given.get("threshold", "0.5")),
    )


def of_volumes(config: pb.ModelConfig, window: SlidingWindow) -> pb.ModelConfig:
    """Return the configuration as clients are told it: tensors are volumes, and there is no batch."""
    told = pb.ModelConfig()
    told.CopyFrom(config)
    told.max_batch_size = 0
    del told.input[:], told.output[:], told.model_warmup[:]
    del told.dynamic_batching.preferred_batch_size[:]
    if not config.HasField("dynamic_batching"):
        told.ClearField("dynamic_batching")
    signature = window.signature
    for spec, tensor in [(spec, told.input.add()) for spec in signature.inputs] + [
        (spec, told.output.add()) for spec in signature.outputs
    ]:
        tensor.name, tensor.data_type = spec.name, pb.DataType.Value(f"TYPE_{spec.datatype.name}")
        tensor.dims.extend(spec.shape)
    return told


def _wrong(key: str, what: str) -> WrongModelError:
    return WrongModelError(f"config.pbtxt: parameter {PREFIX}{key} {what}")


def _protocol(dtype: np.dtype[Any]) -> str:
    return next(name for name, datatype in DATATYPES.items() if datatype.numpy == dtype)


def _channels(tensor: pb.ModelInput | pb.ModelOutput, largest: int) -> tuple[int, list[int]]:
    """Return a tensor's channels and its three sizes."""
    dims = list(tensor.dims) if largest else list(tensor.dims)[1:]
    batched = largest or (len(tensor.dims) == 5 and tensor.dims[0] in (ANY, 1))
    if len(dims) != 4 or dims[0] < 1 or not batched:
        raise WrongModelError(
            f"config.pbtxt: {tensor.name!r} has dims {list(tensor.dims)}; a sliding window needs a fixed number of "
            "channels and three axes, behind a batch dimension of -1 or 1 where max_batch_size is 0"
        )
    return dims[0], dims[1:]


def _batch(given: Mapping[str, str], config: pb.ModelConfig, image: pb.ModelInput) -> int:
    size = given.get("sw_batch_size", str(config.max_batch_size or 1))
    largest = config.max_batch_size or (1 if image.dims[0] == 1 else np.inf)
    if not re.fullmatch("[1-9][0-9]{0,5}", size) or int(size) > largest:
        raise _wrong("sw_batch_size", f"is {size!r}; a whole number from 1 to the model's largest batch is needed")
    return int(size)


def _choice(given: Mapping[str, str], key: str, choices: tuple[str, ...], default: int) -> str:
    value = given.get(key, choices[default])
    if value not in choices:
        raise _wrong(key, f"is {value!r}; one of {', '.join(choices)} is needed")
    return value


def _number(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise _wrong(key, f"is {text!r}; a number is needed")
    return value


def _three(given: Mapping[str, str], key: str, default: str, least: float, below: float) -> Three:
    values = [_number(key, text) for text in given.get(key, default).split(",")]
    if len(values) not in (1, 3) or not all(least <= value < below for value in values):
        raise _wrong(key, f"is {given.get(key)!r}; one or three numbers, at least {least:g}, below {below:g}")
    first, second, third = values * (1 if len(values) == 3 else 3)
    return first, second, third


def _integers(given: Mapping[str, str], key: str) -> Sizes:
    parts = given.get(key, "").split(",")
    if len(parts) != 3 or not all(re.fullmatch(r"\s*[1-9][0-9]{0,3}\s*", part) for part in parts):
        raise _wrong(key, f"is {given.get(key, '')!r}; three sizes are needed, e.g. 96,96,96")
    first, second, third = (int(part) for part in parts)
    return first, second, third


def _axes(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")] if text else []
    if not set(parts) <= {"0", "1", "2"} or len(set(parts)) != len(parts):
        raise _wrong("mirror_axes", f"is {text!r}; axes of the graph are needed, each once, e.g. 0,1,2")
    return tuple(sorted(int(part) for part in parts))


def _orientation(codes: str) -> tuple[Sizes, tuple[bool, bool, bool]]:
    axes, flips = [], []
    for code in codes:
        letter = code if code in _OURS else _OPPOSITE.get(code, "")
        axes.append(_OURS.find(letter) if letter else -1)
        flips.append(letter != code)
    if sorted(axes) != [0, 1, 2]:
        raise _wrong("orientation", f"is {codes!r}; three axis codes are needed, e.g. RAS or SPL")
    return (axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2])


def _normalisation(given: Mapping[str, str], channels: int) -> tuple[Normalisation, ...]:
    def each(key: str, default: str) -> list[str]:
        values = [value.strip() for value in given.get(key, default).split(";")]
        if len(values) not in (1, channels):
            raise _wrong(key, f"has {len(values)} values; one, or one for each of {channels} channels, is needed")
        return values * (channels if len(values) == 1 else 1)

    nonzero = _choice(given, "nonzero", ("false", "true"), 0) == "true"
    return tuple(
        Normalisation(
            _clip(clip),
            None if subtract == "mean" else _number("subtract", subtract),
            None if divide == "std" else _divisor(divide),
            nonzero,
        )
        for clip, subtract, divide in zip(each("clip", ""), each("subtract", "0"), each("divide", "1"), strict=True)
    )


def _clip(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    bounds = [_number("clip", part) for part in text.split(",")]
    if len(bounds) != 2 or bounds[0] >= bounds[1]:
        raise _wrong("clip", f"is {text!r}; LOW,HIGH is needed")
    return bounds[0], bounds[1]


def _divisor(text: str) -> float:
    value = _number("divide", text)
    if value == 0:
        raise _wrong("divide", "is 0")
    return value
