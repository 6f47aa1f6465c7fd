"""Patches cut and blended as MONAI does it, and what a model declares about them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from auscult.inference import patches
from auscult.inference.config_checks import WrongModelError
from auscult.inference.pb import model_config_pb2 as pb
from auscult.inference.resampling import Axis
from auscult.inference.sliding_window import SlidingWindow, declared, of_volumes
from inference.monai_reference import CASES, GOLDEN, predict, volume

TENSORS = """
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: [1, -1, -1, -1] }
output { name: "y" data_type: TYPE_FP32 dims: [2, -1, -1, -1] }
"""


def config(tensors: str = TENSORS, **parameters: str) -> pb.ModelConfig:
    """Return a configuration with the window's parameters."""
    made = text_format.Parse(tensors, pb.ModelConfig())
    for key, value in parameters.items():
        made.parameters[f"sliding_window.{key}"].string_value = value
    return made


def window(tensors: str = TENSORS, **parameters: str) -> SlidingWindow:
    """Return what such a configuration declares."""
    made = declared(config(tensors, **parameters))
    assert made is not None
    return made


def run(
    window: SlidingWindow,
    image: NDArray[Any],
    graph: Callable[[NDArray[Any]], NDArray[Any]],
    spacing: tuple[float, ...] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a volume's labels and probabilities."""
    outputs = {
        "labels": np.full((1 if window.argmax else window.classes, *image.shape[1:]), 99, np.uint8),
        "probabilities": np.full((window.classes, *image.shape[1:]), np.nan, np.float32),
    }
    blended = patches.blended(window, image, spacing, outputs)
    batch = next(blended)
    with suppress(StopIteration):
        while True:
            batch = blended.send(graph(batch))
    return outputs["labels"], outputs["probabilities"]


@pytest.mark.parametrize("name", CASES)
def test_result_is_monais(name: str) -> None:
    """Blended scores are those that MONAI recorded, for every mode of blending and padding."""
    case = CASES[name]
    made = window(
        roi_size=",".join(map(str, case.roi_size)),
        overlap=str(case.overlap),
        mode=case.mode,
        sigma_scale=str(case.sigma_scale),
        sw_batch_size="3",
        padding_mode=case.padding_mode,
        cval=str(case.cval),
        activation="none",
    )
    z, y, x = case.kept
    labels, scores = run(made, volume(case.shape), predict)
    with np.load(GOLDEN) as golden:
        np.testing.assert_allclose(scores[:, ::z, ::y, ::x], golden[name], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(labels[0], scores.argmax(axis=0))


@given(st.integers(1, 60), st.integers(1, 20), st.floats(0, 0.99))
def test_patches_cover_an_axis(size: int, roi: int, overlap: float) -> None:
    """Patches begin in order, leave no voxel out, stay inside, and none lies where another does."""
    size = max(size, roi)
    begin = patches.starts(size, roi, overlap)
    assert begin[0] == 0
    assert begin[-1] == size - roi
    assert all(0 < after - before <= roi for before, after in pairwise(begin))


@pytest.mark.parametrize(("axes", "runs"), [("", 1), ("2", 2), ("0,2", 4), (" 2, 1,0", 8)])
def test_scores_are_means_over_mirrored_patches(axes: str, runs: int) -> None:
    """Along each set of the axes, and mirrored back."""
    image = np.random.default_rng(0).normal(size=(1, 2, 3, 4)).astype(np.float32)
    seen = 0

    def graph(batch: NDArray[Any]) -> NDArray[Any]:
        nonlocal seen
        seen += 1
        assert batch.flags.c_contiguous
        slanted = batch.cumsum(axis=2).cumsum(axis=3).cumsum(axis=4)
        return np.concatenate([batch, slanted], axis=1).astype(np.float16)

    _, scores = run(window(roi_size="2,3,4", mirror_axes=axes, activation="none"), image, graph)
    assert seen == runs
    expected = image.astype(np.float64)
    for axis in range(1, 4):
        there = expected.cumsum(axis=axis)
        back = np.flip(np.flip(expected, axis).cumsum(axis=axis), axis)
        expected = (there + back) / 2 if str(axis - 1) in axes else there
    np.testing.assert_allclose(scores, np.concatenate([image, expected]), atol=0.02)


def test_normalisation() -> None:
    """Voxels are clipped, mean and std are the volume's own, and with `nonzero` zeros stay as they are."""
    image = np.array([0, 10, 20, 30, 900, 0], np.int16).reshape(1, 1, 2, 3)
    seen = []

    def graph(batch: NDArray[Any]) -> NDArray[Any]:
        seen.append(batch.copy())
        return np.concatenate([batch, -batch], axis=1)

    own = {"clip": "5,100", "subtract": "mean", "divide": "std", "nonzero": "true"}
    labels, probabilities = run(window(roi_size="1,2,3", **own), image, graph)
    counted = np.array([10, 20, 30, 100])
    expected = np.array([0, *(counted - counted.mean()) / counted.std(), 0]).reshape(1, 1, 1, 2, 3)
    np.testing.assert_allclose(seen[0], expected, rtol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, rtol=1e-6)
    np.testing.assert_array_equal(labels, expected[0] < 0)


def test_each_channel_is_normalised_by_its_own() -> None:
    """Values parted by `;` are one for each channel."""
    tensors = TENSORS.replace("dims: [1,", "dims: [2,")
    image = np.full((2, 1, 1, 1), 8, np.uint8)
    made = window(tensors, roi_size="1,1,1", subtract="1;2", divide="7;2", clip=";0,4", activation="none")
    assert run(made, image, np.asarray)[1].ravel().tolist() == [1, 1]


def test_orientation_of_the_graph_is_undone() -> None:
    """A graph of RAS sees x, y, z rising to right, front and top; its results lie as the volume came."""
    image = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    seen = []

    def graph(batch: NDArray[Any]) -> NDArray[Any]:
        seen.append(batch.copy())
        return np.concatenate([batch, -batch], axis=1)

    _, scores = run(window(roi_size="4,3,2", orientation="RAS", activation="none"), image, graph)
    np.testing.assert_array_equal(seen[0][0, 0], image[0, :, ::-1, ::-1].transpose(2, 1, 0))
    np.testing.assert_array_equal(scores, np.concatenate([image, -image]))


@pytest.mark.parametrize("shape", [(6, 9, 7), (1, 8, 8), (5, 1, 3)])
def test_resampling_is_scipys(shape: tuple[int, int, int]) -> None:
    """A volume on the model's spacing, and back, is what scipy's linear zoom with coinciding edges makes of it."""
    image = volume(shape)
    spacing = (2.5, 0.7, 1.1)
    made = window(roi_size="4,4,4", overlap="0.5", spacing="1,1.5,0.9", activation="none")
    grid = patches.grid(made, shape, spacing)
    assert grid == tuple(max(1, round(n * mm / to)) for n, mm, to in zip(shape, spacing, (1, 1.5, 0.9), strict=True))
    _, scores = run(made, image, lambda batch: np.concatenate([batch, 2 * batch], axis=1), spacing)

    def zoomed(array: NDArray[Any], to: tuple[int, ...]) -> NDArray[Any]:
        """Interpolate one axis after the other at the centres that both grids share."""
        for axis, size in enumerate(to):
            of = array.shape[axis]
            centres = np.clip((np.arange(size) + 0.5) * of / size - 0.5, 0, of - 1)
            places = np.stack(np.meshgrid(*map(np.arange, array.shape), indexing="ij"))
            places = np.take(places, np.zeros(size, int), axis=axis + 1).astype(float)
            places[axis] = centres.reshape([-1 if other == axis else 1 for other in range(array.ndim)])
            array = ndimage.map_coordinates(array, places, order=1, mode="nearest")
        return array

    expected = zoomed(zoomed(image[0].astype(float), grid), shape)
    np.testing.assert_allclose(scores, np.stack([expected, 2 * expected]), atol=1e-5)


def test_grid_on_itself_is_the_same() -> None:
    """No interpolation is done where both grids are one."""
    assert Axis.between(5, 5).same
    assert not Axis.between(5, 6).same
    assert not Axis.between(2, 1).same


def test_threshold_makes_a_mask_for_each_channel() -> None:
    """With sigmoid and threshold channels may overlap; each has its mask."""
    made = window(roi_size="1,1,2", activation="sigmoid", labels="threshold", threshold="0.4")
    image = np.array([[[[-3, 3]]]], np.float32)
    labels, probabilities = run(made, image, lambda batch: np.concatenate([batch, -batch / 9], axis=1))
    assert labels[:, 0, 0].tolist() == [[0, 1], [1, 1]]
    np.testing.assert_allclose(probabilities[0, 0, 0], 1 / (1 + np.exp([3, -3])), rtol=1e-6)


def test_model_that_declares_nothing_has_no_window() -> None:
    """Other parameters make no window."""
    plain = config()
    plain.parameters["intra_op_thread_count"].string_value = "1"
    assert declared(plain) is None


def test_clients_are_told_of_volumes() -> None:
    """The configuration that clients get has the volume's tensors and no batch."""
    read = config(TENSORS + "dynamic_batching { preferred_batch_size: [2] priority_levels: 2 }", roi_size="8,8,8")
    made = declared(read)
    assert made is not None
    told = of_volumes(read, made)
    assert told.max_batch_size == 0
    assert [(tensor.name, list(tensor.dims)) for tensor in (*told.input, *told.output)] == [
        ("x", [1, -1, -1, -1]),
        ("labels", [1, -1, -1, -1]),
        ("probabilities", [2, -1, -1, -1]),
    ]
    assert not told.dynamic_batching.preferred_batch_size
    assert told.dynamic_batching.priority_levels == 2


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"roi": "8,8,8"}, "sliding_window.roi is not known"),
        ({"overlap": "0.5"}, "sliding_window.roi_size is ''; three sizes are needed"),
        ({"roi_size": "8,8"}, "three sizes are needed"),
        ({"roi_size": "8,8,0"}, "three sizes are needed"),
        ({"roi_size": "8,8,8", "overlap": "1"}, "overlap is '1'; one or three numbers, at least 0, below 1"),
        ({"roi_size": "8,8,8", "overlap": "nan"}, "overlap is 'nan'; a number is needed"),
        ({"roi_size": "8,8,8", "mode": "Gaussian"}, "mode is 'Gaussian'; one of constant, gaussian"),
        ({"roi_size": "8,8,8", "sw_batch_size": "5"}, "sw_batch_size is '5'"),
        ({"roi_size": "8,8,8", "mirror_axes": "0,3"}, "mirror_axes is '0,3'"),
        ({"roi_size": "8,8,8", "mirror_axes": "1,1"}, "mirror_axes is '1,1'"),
        ({"roi_size": "8,8,8", "orientation": "RAR"}, "orientation is 'RAR'"),
        ({"roi_size": "8,8,8", "spacing": "1,0,1"}, "spacing is '1,0,1'"),
        ({"roi_size": "8,8,8", "divide": "0"}, "divide is 0"),
        ({"roi_size": "8,8,8", "clip": "3,1"}, "clip is '3,1'; LOW,HIGH is needed"),
        ({"roi_size": "8,8,8", "subtract": "1;2"}, "subtract has 2 values"),
    ],
)
def test_wrong_declaration_is_refused(parameters: dict[str, str], text: str) -> None:
    """A parameter that is misspelt or makes no sense is named."""
    with pytest.raises(WrongModelError, match=text):
        declared(config(**parameters))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("dims: [1, -1, -1, -1]", "dims: [1, -1, -1]"), "'x' has dims"),
        (("dims: [2, -1, -1, -1]", "dims: [-1, -1, -1, -1]"), "'y' has dims"),
        (("dims: [1, -1, -1, -1]", "dims: [1, 8, 8, 9]"), r"roi_size is \[8, 8, 8\]"),
        (("max_batch_size: 4", ""), "behind a batch dimension"),
        (("dims: [2, -1, -1, -1]", "dims: [2, 4, 4, 4]"), r"the sizes of 'y' are \[4, 4, 4\]"),
        (("TYPE_FP32 dims: [1,", "TYPE_INT16 dims: [1,"), "'x' is TYPE_INT16; a sliding window needs FP32 or FP16"),
        (("TYPE_FP32 dims: [2,", "TYPE_INT64 dims: [2,"), "'y' is TYPE_INT64; a sliding window needs FP32 or FP16"),
        (("dims: [2,", "dims: [300,"), "labels hold 256"),
        (("}\noutput", '}\ninput { name: "z" }\noutput'), "one input and one output"),
    ],
)
def test_graph_that_takes_no_patches_is_refused(change: tuple[str, str], text: str) -> None:
    """A window needs one image in, one image of scores out, with fixed channels and three axes."""
    with pytest.raises(WrongModelError, match=text):
        declared(config(TENSORS.replace(*change), roi_size="8,8,8"))
