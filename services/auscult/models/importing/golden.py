"""The golden pair: a seeded input and what the source framework answered, kept with the model to be replayed.

`golden.npz` holds `input/NAME`, `output/NAME`, the tolerance and the framework. Of an output with many elements it
holds some, at `places/NAME`: indices into the flattened output.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from auscult.models.importing.source import CannotImport, Converted, Tensors, Tolerance

GOLDEN = "golden.npz"
KEPT = 16_384
"""Elements kept of an output."""


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """A pair, whole or with some of its outputs' elements."""

    given: Tensors
    expected: Tensors
    places: Tensors
    """By output of which only some elements are kept."""
    tolerance: Tolerance
    framework: str

    @classmethod
    def of(cls, converted: Converted) -> Golden:
        """Return the whole pair."""
        return cls(converted.given, converted.expected, {}, converted.tolerance, converted.framework)

    def small(self, seed: int) -> Golden:
        """Return it with at most `KEPT` elements of each output, chosen by `seed`."""
        random = np.random.default_rng(seed)
        places = {
            name: np.sort(random.choice(array.size, KEPT, replace=False)).astype(np.int64)
            for name, array in self.expected.items()
            if array.size > KEPT
        }
        kept = {
            name: array.reshape(-1)[places[name]] if name in places else array
            for name, array in self.expected.items()
        }
        return replace(self, expected=kept, places=places)

    def encode(self) -> bytes:
        """Return `golden.npz`."""
        arrays = {
            **{f"input/{name}": _objects_as_strings(array) for name, array in self.given.items()},
            **{f"output/{name}": _objects_as_strings(array) for name, array in self.expected.items()},
            **{f"places/{name}": array for name, array in self.places.items()},
            "tolerance": np.array([self.tolerance.relative, self.tolerance.absolute]),
            "framework": np.array(self.framework),
        }
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, **arrays)
        return file.getvalue()

    @classmethod
    def decode(cls, content: bytes) -> Golden:
        """Read `golden.npz`; ValueError or KeyError where it is not one."""
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = dict(file)
        relative, absolute = arrays["tolerance"]

        def below(prefix: str) -> dict[str, NDArray[Any]]:
            return {
                name.removeprefix(prefix): _strings_as_objects(array)
                for name, array in arrays.items()
                if name.startswith(prefix)
            }

        return cls(
            below("input/"),
            below("output/"),
            below("places/"),
            Tolerance(float(relative), float(absolute)),
            str(arrays["framework"]),
        )

    def replay(self, session: ort.InferenceSession) -> float:
        """Run the input; return the greatest difference, or raise CannotImport where one is not tolerated."""
        names = list(self.expected)
        given = dict(zip(names, run(session, names, self.given), strict=True))
        worst = 0.0
        for name, expected in self.expected.items():
            array = given[name]
            if name in self.places:
                array = array.reshape(-1)[self.places[name]]
            worst = max(worst, self.compare(name, array, expected))
        return worst

    def compare(self, name: str, given: NDArray[Any], expected: NDArray[Any]) -> float:
        """Return the greatest difference between two arrays; CannotImport where one is not tolerated."""
        if given.shape != expected.shape:
            raise CannotImport(
                "output-differs",
                f"output {name!r} has shape {list(given.shape)} in ONNX Runtime, {list(expected.shape)} in "
                f"{self.framework}",
            )
        if given.size == 0:
            return 0.0
        if expected.dtype.kind in "OUSb":
            difference = np.where(given == expected, 0.0, np.inf)
        else:
            same = (given == expected) | (np.isnan(given) & np.isnan(expected))
            with np.errstate(invalid="ignore"):
                difference = np.where(same, 0.0, np.abs(given.astype(np.float64) - expected.astype(np.float64)))
            difference = np.where(np.isnan(difference), np.inf, difference)
        allowed = self._allowed(expected)
        if beyond := int(np.count_nonzero(difference > allowed)):
            raise CannotImport(
                "output-differs",
                f"output {name!r}: {beyond} of {given.size} values in ONNX Runtime differ from those of "
                f"{self.framework}, by up to {difference.max():.3g}; a difference of "
                f"{self.tolerance.absolute:g} + {self.tolerance.relative:g} of the value is tolerated",
            )
        return float(difference.max())

    def _allowed(self, expected: NDArray[Any]) -> NDArray[np.float64]:
        if expected.dtype.kind != "f":
            return np.zeros(expected.shape)
        return self.tolerance.absolute + self.tolerance.relative * np.nan_to_num(np.abs(expected.astype(np.float64)))


def run(session: ort.InferenceSession, names: list[str], given: Tensors) -> list[NDArray[Any]]:
    """Return the outputs; CannotImport where the graph fails."""
    try:
        return [np.asarray(array) for array in session.run(names, dict(given))]
    except Exception as error:
        raise CannotImport("onnx-fails", f"ONNX Runtime cannot run the graph: {error}") from error


def rows_are_independent(golden: Golden, session: ort.InferenceSession) -> bool:
    """Whether each row of the batch gets the answer that it gets alone, so that requests may share a run."""
    names = list(golden.expected)
    size = next(iter(golden.given.values())).shape[0]
    together = run(session, names, golden.given)
    if any(array.shape[:1] != (size,) for array in together):
        return False
    for row in range(min(size, 4)):
        alone = run(session, names, {name: array[row : row + 1] for name, array in golden.given.items()})
        expected = {name: array[row : row + 1] for name, array in zip(names, together, strict=True)}
        try:
            for name, array in zip(names, alone, strict=True):
                golden.compare(name, array, expected[name])
        except CannotImport:
            return False
    return True


def random_array(dtype: np.dtype[Any], shape: tuple[int, ...], seed: int) -> NDArray[Any]:
    """Return an input: normal deviates in quarters, which compress well, or 0 and 1 for whole numbers and BOOL."""
    random = np.random.default_rng(seed)
    if dtype.kind == "f":
        return np.asarray(np.round(random.standard_normal(shape) * 4) / 4, dtype)
    if dtype.kind in "iub":
        return np.asarray(random.integers(0, 2, shape), dtype)
    raise CannotImport("example-needed", f"no input of type {dtype} can be made up; give one with --example FILE.npz")


def _strings_as_objects(array: NDArray[Any]) -> NDArray[Any]:
    """Return text as ONNX Runtime takes and gives it."""
    return array.astype(np.object_) if array.dtype.kind == "U" else array


def _objects_as_strings(array: NDArray[Any]) -> NDArray[Any]:
    """Return text as a file without pickles holds it."""
    return array.astype(np.str_) if array.dtype.kind == "O" else array
