"""What every source is asked for, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from auscult.domain.model_card import Performance
from auscult.platform.errors import AuscultError

if TYPE_CHECKING:
    from onnx import ModelProto

Tensors = Mapping[str, NDArray[Any]]


class CannotImport(AuscultError):
    """The model is not imported, and nothing was written; the text says what cannot be carried over."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An input as the caller describes it: -1 leaves a size open."""

    dtype: str
    """As Triton names it, e.g. FP32."""
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be imported, and what its source does not say itself."""

    source: Path
    trust_pickle: bool = False
    """Unpickling runs whatever code the file holds."""
    inputs: Mapping[str, Wanted] = field(default_factory=dict)
    example: Tensors = field(default_factory=dict)
    """Inputs to compare with instead of random ones."""
    labels: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    """UCUM, by feature."""
    folds: tuple[str, ...] = ()
    checkpoint: str = "checkpoint_final.pth"
    orientation: str = ""
    """Where the axes of the arrays that the model was trained on increase to, as nibabel's axis codes."""
    network_only: bool = False
    """Leave out what comes before and after the network."""
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Tolerance:
    """ONNX Runtime agrees where |given - expected| <= absolute + relative * |expected|, for every element."""

    relative: float
    absolute: float


TABULAR = Tolerance(relative=1e-4, absolute=1e-5)
"""Single precision over a few hundred additions."""
NETWORK = Tolerance(relative=1e-3, absolute=1e-3)
"""Single precision over the layers of a deep network, whose convolutions sum in another order."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the source says about the model; empty where it says nothing."""

    title: str = ""
    summary: str = ""
    intended_use: str = ""
    evidence: str = ""
    license: str = ""
    training_data: str = ""
    developer: str = ""
    performance: tuple[Performance, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Converted:
    """A model as ONNX, and what its own framework answers."""

    model: ModelProto
    given: Tensors
    """Inputs of the comparison."""
    expected: Tensors
    """Outputs of the source framework for them."""
    framework: str
    """And its version."""
    tolerance: Tolerance
    facts: Facts = Facts()
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Of config.pbtxt."""
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By output: what its elements stand for."""
    max_batch_size: int = 0
    not_carried: tuple[str, ...] = ()
    """Sentences on what the source does and this model does not; they become limitations in the card."""


def framework(module: str, extra: str) -> Any:
    """Import a source's framework; CannotImport names the extra that brings it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name.partition(".")[0]):
            raise
        raise CannotImport(
            "framework-missing", f"{error.name} is not installed; install auscult[{extra}] to import this model"
        ) from None
