"""The graph takes any chest CT's grid and answers on it, computes the network as written, and finds a nodule."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from scipy.ndimage import correlate, zoom

from auscult.imaging.phantom import chest, scan
from auscult.imaging.phantom.anatomy import cube
from auscult.models.segmentation.architecture import HU_HIGH, HU_LOW, LAYERS, SPACING, network
from auscult.models.segmentation.graph import WEIGHTS, Weights, build, load

Volume = NDArray[np.int16]


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    """Return a session on the model."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(build().SerializeToString(), options)


def ask(session: ort.InferenceSession, image: Volume, spacing: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Return the probability."""
    answer: NDArray[np.uint8] = session.run(None, {"image": image, "spacing": np.array(spacing, np.float32)})[0]
    return answer


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 31, 18), (16, 16, 16), (33, 40, 41)])
@pytest.mark.parametrize("spacing", [(1.25, 1.25, 1.25), (3.0, 0.6, 0.7), (0.5, 2.0, 1.1)])
def test_the_answer_lies_on_the_images_grid(
    session: ort.InferenceSession, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    """Odd sizes and spacings get an answer of the image's own shape."""
    image = np.random.default_rng(0).integers(-1000, 300, shape).astype(np.int16)
    answer = ask(session, image, spacing)
    assert answer.shape == shape
    assert answer.dtype == np.uint8


def test_authoring_repeats() -> None:
    """The same weights give the same bytes, small enough for the repository."""
    first, second = (build().SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert len(first) < 1_200_000


class Plain:
    """The network's operations in plain numpy, (channel, z, y, x), to hold the graph against."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def convolve(self, layer: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convolve, zeros around."""
        kernel, bias = self._weights[f"{layer}.kernel"].astype(float), self._weights[f"{layer}.bias"]
        return np.stack(
            [
                sum(correlate(x[c], kernel[o, c], mode="constant") for c in range(len(x))) + bias[o]
                for o in range(len(bias))
            ]
        )

    def rectify(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Set what is negative to 0."""
        return np.maximum(x, 0)

    def pool(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take the maximum of blocks."""
        return np.max([x[:, i::2, j::2, k::2] for i in (0, 1) for j in (0, 1) for k in (0, 1)], axis=0)

    def enlarge(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Repeat each voxel."""
        return x.repeat(2, 1).repeat(2, 2).repeat(2, 3)

    def join(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        """Concatenate channels."""
        return np.concatenate([a, b])

    def fold(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Move blocks to channels."""
        return np.stack([x[0, i::2, j::2, k::2] for i in (0, 1) for j in (0, 1) for k in (0, 1)])

    def unfold(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Move channels to blocks."""
        whole = np.zeros((1, *(2 * n for n in x.shape[1:])))
        for channel in range(8):
            whole[0, channel // 4 :: 2, channel // 2 % 2 :: 2, channel % 2 :: 2] = x[channel]
        return whole


def test_the_graph_computes_the_network() -> None:
    """With random weights, resampling, padding and every layer agree with plain numpy."""
    rng = np.random.default_rng(2)
    weights: dict[str, NDArray[np.float32]] = {}
    for layer, (size, inwards, outwards) in LAYERS.items():
        scale = np.sqrt(2 / (inwards * size**3))
        weights[f"{layer}.kernel"] = rng.normal(0, scale, (outwards, inwards, size, size, size)).astype(np.float32)
        weights[f"{layer}.bias"] = rng.normal(0, 0.2, outwards).astype(np.float32)
    image = rng.integers(-1200, 600, (7, 16, 12)).astype(np.int16)
    session = ort.InferenceSession(build(weights).SerializeToString())
    answer = ask(session, image, (2.5, 0.9, 1.25))

    normal = (np.clip(image.astype(float), HU_LOW, HU_HIGH) - (HU_HIGH + HU_LOW) / 2) / ((HU_HIGH - HU_LOW) / 2)
    cells = [round(n * s / SPACING) for n, s in zip(image.shape, (2.5, 0.9, 1.25), strict=True)]
    grid = resampled(normal, cells)
    padded = np.pad(grid, [(0, -n % 8) for n in cells], mode="edge")
    share = 1 / (1 + np.exp(-network(Plain(weights), padded[None])[0]))
    expected = resampled(share[: cells[0], : cells[1], : cells[2]], list(image.shape))
    assert np.ptp(expected) > 0.3
    assert np.abs(answer / 255 - expected).max() < 0.01


def resampled(image: NDArray[np.float64], shape: list[int]) -> NDArray[np.float64]:
    """Resample linearly, the edges of both grids coinciding."""
    factors = [new / old for new, old in zip(shape, image.shape, strict=True)]
    result: NDArray[np.float64] = zoom(image, factors, order=1, mode="nearest", grid_mode=True)
    return result


def test_a_nodule_is_found_and_vessels_are_not(session: ort.InferenceSession) -> None:
    """In the surroundings of a solid nodule the outline is the nodule; in a chest without it there is none."""
    phantom = chest(31, diameter_mm=12.0, kind="solid", spiculated=False)
    grid = cube(phantom.truth.centre, 64.0, (1.5, 0.9, 0.9))
    truth = np.zeros(grid.shape, bool)
    region = phantom.region(grid)
    truth[region.box] = region.mask
    found = ask(session, scan(phantom, grid).hu, (1.5, 0.9, 0.9)) >= 128
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.7
    empty = chest(31, with_nodule=False)
    assert (ask(session, scan(empty, grid).hu, (1.5, 0.9, 0.9)) >= 128).sum() < 0.1 * truth.sum()


def test_weights_fit_the_architecture() -> None:
    """The file holds each layer's kernel and bias, nothing else, and is small."""
    weights = load()
    assert weights.keys() == {f"{layer}.{part}" for layer in LAYERS for part in ("kernel", "bias")}
    for layer, (size, inwards, outwards) in LAYERS.items():
        assert weights[f"{layer}.kernel"].shape == (outwards, inwards, size, size, size)
    assert WEIGHTS.stat().st_size < 500_000
