"""One request's volume on its way through a model of patches, a batch of patches at a time.

Between batches it can pause, for a request that is more urgent, and go on later, in whatever thread; it ends there,
too, once nobody waits for it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from auscult.inference import patches
from auscult.inference.device_session import DeviceSession
from auscult.inference.shared_memory import InvalidRegionError, Place
from auscult.inference.sliding_window import LABELS, SPACING, SlidingWindow

LARGEST_GRID = 2**32
"""Voxels on the model's grid; a spacing in other units than mm would ask for more than any machine has time for."""

_CGROUP = Path("/sys/fs/cgroup/memory.max")


def check(window: SlidingWindow, feed: Mapping[str, NDArray[Any]], outputs: Mapping[str, Any]) -> None:
    """ValueError where a request's tensors, of the right datatypes and shapes, are no volume that can be run."""
    shape = feed[window.image].shape[1:]
    if 0 in shape:
        raise ValueError(f"input {window.image!r}: a volume has at least one voxel on each axis, given {list(shape)}")
    _check_spacing(window, shape, feed.get(SPACING))
    needed, there = working_bytes(window, feed, outputs), _memory()
    if needed > there:
        raise ValueError(
            f"input {window.image!r}: a volume of {list(shape)} would take {needed} bytes of work, this machine has "
            f"{there}; send a part of it"
        )


def _check_spacing(window: SlidingWindow, shape: Sequence[int], spacing: NDArray[Any] | None) -> None:
    if spacing is None:
        return
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise ValueError(f"input {SPACING!r}: three positive numbers, in mm along (z, y, x), are expected")
    extents = [size * float(mm) for size, mm in zip(shape, spacing, strict=True)]
    if math.prod(extents) / math.prod(window.spacing or (1.0,)) > LARGEST_GRID:
        raise ValueError(f"input {SPACING!r}: the volume would have over {LARGEST_GRID} voxels; is it in mm?")


def working_bytes(window: SlidingWindow, feed: Mapping[str, NDArray[Any]], outputs: Mapping[str, Any]) -> int:
    """Return about how many bytes the run holds besides the request's own."""
    image = feed[window.image]
    shape = patches.grid(window, image.shape[1:], _spacing(feed))
    plane = math.prod(max(size, roi) for size, roi in zip(shape[1:], window.roi_size[1:], strict=True))
    slab = window.channels if SPACING in feed else 0
    results = sum(math.prod(_shape(window, name, image)) * _dtype(name).itemsize for name in outputs)
    return 4 * (window.classes + slab) * window.roi_size[0] * plane + results


class VolumeRun:
    """The run of one request. ValueError where the volume or a place for results cannot be used."""

    def __init__(
        self,
        window: SlidingWindow,
        feed: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, Place | None],
        session: ort.InferenceSession | DeviceSession,
    ) -> None:
        self.started_ns = time.time_ns()
        self.infer_ns = self.patches_ns = 0
        self.batches = 0
        self.fell_back = False
        self._window, self._session = window, session
        image, spacing = feed[window.image], _spacing(feed)
        _refuse_not_finite(window.image, image)
        self.outputs = {name: _target(name, _shape(window, name, image), place) for name, place in outputs.items()}
        self._patches = patches.blended(window, image, spacing, self.outputs)
        self._batch: NDArray[Any] | None = next(self._patches)

    def advance(self, options: ort.RunOptions, pausing: Callable[[], bool]) -> bool:
        """Go on until it is done, which is returned, or `pausing`. What the runtime raises is let through."""
        while self._batch is not None and not pausing():
            if options.terminate:
                raise RuntimeError("nobody waits for the volume")
            start = time.perf_counter_ns()
            (scores,) = self._session.run([self._window.scores], {self._window.image: self._batch}, options)
            ran = time.perf_counter_ns()
            expected = (len(self._batch), self._window.classes, *self._window.roi_size)
            if scores.shape != expected:
                raise RuntimeError(
                    f"scores of shape {list(expected)} are expected, the graph gave {list(scores.shape)}"
                )
            try:
                self._batch = self._patches.send(scores)
            except StopIteration:
                self._batch = None
            self.fell_back |= getattr(self._session, "fell_back", False)
            self.infer_ns += ran - start
            self.patches_ns += time.perf_counter_ns() - ran
            self.batches += 1
        return self._batch is None


def _spacing(feed: Mapping[str, NDArray[Any]]) -> list[float] | None:
    return [float(mm) for mm in feed[SPACING]] if SPACING in feed else None


@cache
def _memory() -> int:
    """Return the bytes of memory that this process may have."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP.read_text().strip() if _CGROUP.exists() else ""
    return min(machine, int(limit)) if limit.isdecimal() else machine


def _refuse_not_finite(name: str, image: NDArray[Any]) -> None:
    if image.dtype.kind != "f":
        return
    for plane in image.reshape(-1, *image.shape[2:]):
        if not np.isfinite(plane).all():
            raise ValueError(f"input {name!r}: there are voxels that are NaN or infinite; give them a value")


def _shape(window: SlidingWindow, name: str, image: NDArray[Any]) -> tuple[int, ...]:
    channels = 1 if name == LABELS and window.argmax else window.classes
    return (channels, *image.shape[1:])


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(np.uint8 if name == LABELS else np.float32)


def _target(name: str, shape: tuple[int, ...], place: Place | None) -> NDArray[Any]:
    """Return where an output is written. InvalidRegionError where it would not fit into its place."""
    dtype = _dtype(name)
    needed = math.prod(shape) * dtype.itemsize
    if place is not None and place.byte_size < needed:
        raise InvalidRegionError(
            f"output {name!r}: {place.byte_size} bytes of shared memory region {place.region.name!r} given, "
            f"{needed} needed"
        )
    return np.empty(shape, dtype)
