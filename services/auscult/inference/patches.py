"""A volume cut into patches, and their scores blended into a volume, as MONAI's `sliding_window_inference` does.

Patches are taken in planes' order, and a plane is finished, divided by its weights and handed on as soon as no
further patch lies on it. So there are never more scores in memory than those of one patch's depth.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from auscult.inference.resampling import F32, Back, Slab
from auscult.inference.sliding_window import LABELS, PROBABILITIES, Normalisation, Sizes, SlidingWindow, Three

LEAST_WEIGHT = 1e-3
"""MONAI's: at the corners of a Gaussian window single precision has nothing left to divide by."""


def starts(size: int, roi: int, overlap: float) -> list[int]:
    """Return where patches of `roi` begin on an axis of `size` >= `roi`; the last one ends with the axis."""
    interval = roi if size == roi else max(1, int(roi * (1 - overlap)))
    count = math.ceil((size - roi) / interval) + 1
    return [min(index * interval, size - roi) for index in range(count)]


def importance(roi: Sizes, sigma_scale: Three) -> F32:
    """Return the weights of a Gaussian window [z, y, x]."""
    weights = np.ones((), np.float32)
    for size, scale in zip(roi, sigma_scale, strict=True):
        distance = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
        axis = np.exp(-(distance**2) / np.float32(2 * (size * scale) ** 2))
        weights = weights[..., None] * axis
    return np.maximum(weights, max(float(weights.min()), LEAST_WEIGHT))


def grid(window: SlidingWindow, shape: Sequence[int], spacing: Sequence[float] | None) -> Sizes:
    """Return the sizes that a volume [z, y, x] has on the model's own axes and spacing; all at least 1."""
    sizes = [shape[axis] for axis in window.axes]
    if window.spacing and spacing is not None:
        own = [float(spacing[axis]) for axis in window.axes]
        sizes = [
            max(1, round(size * mm / target)) for size, mm, target in zip(sizes, own, window.spacing, strict=True)
        ]
    return sizes[0], sizes[1], sizes[2]


def blended(
    window: SlidingWindow,
    volume: NDArray[Any],
    spacing: Sequence[float] | None,
    outputs: Mapping[str, NDArray[Any]],
) -> Generator[NDArray[Any], NDArray[Any], None]:
    """Give batches of patches [n, c, z, y, x], be sent the graph's scores for each, and fill `outputs`.

    `volume` and `outputs` are [c, z, y, x] as clients see them. A batch is overwritten by the next one.
    """
    shape, own = grid(window, volume.shape[1:], spacing), grid(window, volume.shape[1:], None)
    volume, outputs = oriented(window, volume), {name: oriented(window, array) for name, array in outputs.items()}
    cut = _Cut(window, volume, shape)
    scores = _Scores(window, cut.padded)
    finished = _Finished(window, shape, own, cut.before, outputs)
    rows, columns = (
        starts(size, roi, overlap)
        for size, roi, overlap in zip(cut.padded[1:], window.roi_size[1:], window.overlap[1:], strict=True)
    )
    depths = starts(cut.padded[0], window.roi_size[0], window.overlap[0])
    batch = np.empty((window.sw_batch_size, window.channels, *window.roi_size), window.dtype)
    for z, following in zip(depths, [*depths[1:], cut.padded[0]], strict=True):
        for places in _parted(list(product(rows, columns)), window.sw_batch_size):
            for patch, place in zip(batch, places, strict=False):
                cut.patch((z, *place), patch)
            given = yield from _mirrored(window.mirror_axes, batch[: len(places)])
            for patch_scores, place in zip(given, places, strict=True):
                scores.add((z, *place), patch_scores)
        for plane in range(z, following):
            finished.take(plane, scores.finished(plane, depths, rows, columns))


def _mirrored(axes: Sequence[int], patches: NDArray[Any]) -> Generator[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Give the patches, and mirrored along each set of `axes`; return the mean of the scores, mirrored back."""
    total = yield patches
    if not axes:
        return total
    # What the runtime gave may be its own, and of half precision.
    total = total.astype(np.float32)
    sets = [chosen for many in range(1, len(axes) + 1) for chosen in combinations(axes, many)]
    for chosen in sets:
        flipped = tuple(2 + axis for axis in chosen)
        scores = yield np.ascontiguousarray(np.flip(patches, flipped))
        total += np.flip(scores, flipped)
    total /= len(sets) + 1
    return total


def _parted(places: Sequence[tuple[int, int]], size: int) -> Iterator[Sequence[tuple[int, int]]]:
    return (places[first : first + size] for first in range(0, len(places), size))


def oriented(window: SlidingWindow, array: NDArray[Any]) -> NDArray[Any]:
    """Return an array [c, z, y, x] as a view along the graph's axes."""
    turned = array.transpose(0, *(1 + axis for axis in window.axes))
    return turned[(slice(None), *(slice(None, None, -1 if flip else None) for flip in window.flips))]


class _Cut:
    """Cuts normalised patches out of a volume on the model's grid of `shape`, padded to at least one patch."""

    def __init__(self, window: SlidingWindow, volume: NDArray[Any], shape: Sizes) -> None:
        self._window, self._shape = window, shape
        missing = [max(roi - size, 0) for roi, size in zip(window.roi_size, shape, strict=True)]
        z, y, x = (size + more for size, more in zip(shape, missing, strict=True))
        self.padded: Sizes = (z, y, x)
        self.before = [more // 2 for more in missing]
        self._around = [(first, more - first) for first, more in zip(self.before, missing, strict=True)]
        self._steps = [_linear(step, channel) for step, channel in zip(window.normalisation, volume, strict=True)]
        self._volume = volume
        self._slab = Slab(volume, shape, window.roi_size[0]) if shape != volume.shape[1:] else None

    def patch(self, place: Sizes, patch: NDArray[Any]) -> None:
        """Write the patch that begins at `place` of the padded grid into `patch` [c, z, y, x]."""
        # Where there is padding on an axis, the only patch there has the whole axis and all of the padding.
        inside, z, y, x = (
            patch,
            *(
                slice(start, start + min(roi, size))
                for start, roi, size in zip(place, self._window.roi_size, self._shape, strict=True)
            ),
        )
        padded = any(sum(pair) for pair in self._around)
        if padded:
            inside = patch[
                (slice(None), *(slice(a, n - b) for (a, b), n in zip(self._around, patch.shape[1:], strict=True)))
            ]
        for index, plane in enumerate(range(z.start, z.stop)):
            source = self._slab.plane(plane) if self._slab else self._volume[:, plane]
            for channel, (low, high, subtract, factor, nonzero) in enumerate(self._steps):
                pixels = source[channel, y, x]
                values = pixels.astype(np.float32) if low is None else np.clip(pixels, low, high, dtype=np.float32)
                values -= subtract
                values *= factor
                if nonzero:
                    values[pixels == 0] = 0
                inside[channel, index] = values
        if padded:
            mode: Any = self._window.padding_mode
            options: dict[str, Any] = {"constant_values": self._window.cval} if mode == "constant" else {}
            patch[...] = np.pad(inside, ((0, 0), *self._around), mode, **options)


class _Scores:
    """Weighted sums of scores, of as many planes as a patch is deep."""

    def __init__(self, window: SlidingWindow, padded: Sizes) -> None:
        self._depth = window.roi_size[0]
        self._classes, self._roi = window.classes, window.roi_size
        self._weights = importance(window.roi_size, window.sigma_scale) if window.gaussian else None
        self._sums = np.zeros((self._classes, self._depth, *padded[1:]), np.float32)
        self._weighted = np.empty(window.roi_size[1:], np.float32)

    def add(self, place: Sizes, scores: NDArray[Any]) -> None:
        """Add a patch's scores [c, z, y, x]."""
        first, y, x = place
        rows, columns = slice(y, y + self._roi[1]), slice(x, x + self._roi[2])
        # By planes, which stay in the processor's cache between the two steps.
        for channel, index in product(range(self._classes), range(self._depth)):
            sums = self._sums[channel, (first + index) % self._depth, rows, columns]
            if self._weights is None:
                sums += scores[channel, index]
            else:
                np.multiply(scores[channel, index], self._weights[index], out=self._weighted)
                sums += self._weighted

    def finished(self, z: int, depths: Sequence[int], rows: Sequence[int], columns: Sequence[int]) -> F32:
        """Return plane `z` [c, y, x], divided by its weights, and make room for another one."""
        one: F32 = np.zeros(self._roi[1:], np.float32)
        for first in depths:
            if first <= z < first + self._depth:
                one += 1 if self._weights is None else self._weights[z - first]
        sums = self._sums[:, z % self._depth]
        weights = np.zeros(sums.shape[1:], np.float32)
        for y, x in product(rows, columns):
            weights[y : y + self._roi[1], x : x + self._roi[2]] += one
        plane: F32 = sums / weights
        sums[...] = 0
        return plane


class _Finished:
    """Makes outputs of blended planes, in order: padding off, activation, back to the volume's own grid, labels."""

    def __init__(
        self,
        window: SlidingWindow,
        shape: Sizes,
        own: Sizes,
        before: Sequence[int],
        outputs: Mapping[str, NDArray[Any]],
    ) -> None:
        self._window, self._outputs = window, outputs
        self._back = Back(shape, own) if shape != own else None
        (z, y, x), (depth, height, width) = before, shape
        self._inside = range(z, z + depth)
        self._rows, self._columns = slice(y, y + height), slice(x, x + width)
        # Of plain scores the largest stays the largest.
        activate = PROBABILITIES in outputs or self._back is not None or not window.argmax
        self._activation = window.activation if activate else "none"

    def take(self, z: int, plane: F32) -> None:
        """Take plane `z` of the padded grid."""
        if z not in self._inside:
            return
        z, plane = z - self._inside.start, plane[:, self._rows, self._columns]
        if self._activation == "softmax":
            plane = special.softmax(plane, axis=0)
        elif self._activation == "sigmoid":
            plane = special.expit(plane)
        for index, done in self._back.planes(z, plane) if self._back else iter(((z, plane),)):
            if PROBABILITIES in self._outputs:
                self._outputs[PROBABILITIES][:, index] = done
            if LABELS in self._outputs:
                self._outputs[LABELS][:, index] = (
                    done.argmax(axis=0) if self._window.argmax else done >= self._window.threshold
                )


_Step = tuple[float | None, float | None, np.float32, np.float32, bool]


def _linear(step: Normalisation, channel: NDArray[Any]) -> _Step:
    """Return a channel's normalisation with its mean and std measured: low, high, subtract, factor, nonzero."""
    low, high = step.clip or (None, None)
    subtract, divide = step.subtract, step.divide
    if subtract is None or divide is None:
        mean, std = _mean_and_std(list(_counted(step, channel)))
        subtract = mean if subtract is None else subtract
        divide = (std or 1.0) if divide is None else divide
    return low, high, np.float32(subtract), np.float32(1 / divide), step.nonzero


def _counted(step: Normalisation, channel: NDArray[Any]) -> Iterator[tuple[int, float, float]]:
    """Give each plane's number of voxels, mean, and sum of squared differences from it."""
    for plane in channel:
        voxels = plane[plane != 0] if step.nonzero else plane
        values = voxels.astype(np.float64)
        if step.clip:
            values = np.clip(values, *step.clip)
        if values.size:
            yield values.size, float(values.mean()), float(values.var() * values.size)


def _mean_and_std(planes: Sequence[tuple[int, float, float]]) -> tuple[float, float]:
    count = sum(size for size, _, _ in planes)
    if not count:
        return 0.0, 0.0
    mean = sum(size * mean for size, mean, _ in planes) / count
    squares = sum(about + size * (own - mean) ** 2 for size, own, about in planes)
    return mean, math.sqrt(squares / count)
