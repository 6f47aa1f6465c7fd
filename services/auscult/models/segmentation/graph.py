"""The ONNX graph: HU and spacing in, a probability for each voxel out; all resampling is inside.

Inputs: `image` INT16 [z, y, x], HU; `spacing` FP32 [3], mm along (z, y, x), positive.
Output: `probability` UINT8 [z, y, x] on the image's own grid, 0..255 for 0..1.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import spox.opset.ai.onnx.v17 as op
from numpy.typing import NDArray
from onnx import ModelProto
from spox import Tensor, Var, argument
from spox import build as build_graph

from auscult.models.metadata import describe
from auscult.models.segmentation.architecture import HU_HIGH, HU_LOW, LAYERS, MULTIPLE, SPACING, network

Weights = Mapping[str, NDArray[np.float32]]
WEIGHTS = Path(__file__).with_name("weights.npz")


def load(path: Path = WEIGHTS) -> Weights:
    """Read the trained weights: `<layer>.kernel` (out, in, z, y, x) and `<layer>.bias` (out,)."""
    with np.load(BytesIO(path.read_bytes())) as file:
        return {name: file[name].astype(np.float32) for name in file.files}


def build(weights: Weights | None = None) -> ModelProto:
    """Return the graph with the trained weights, or with other ones. The same weights give the same bytes."""
    image, spacing = argument(Tensor(np.int16, ("z", "y", "x"))), argument(Tensor(np.float32, (3,)))
    probability = _probability(_Spox(weights if weights is not None else load()), image, spacing)
    return describe(
        build_graph({"image": image, "spacing": spacing}, {"probability": probability}),
        text="Outlines lung nodules in a chest CT. Trained on synthetic phantoms.",
        grid_mm=str(SPACING),
    )


def _probability(run: _Spox, image: Var, spacing: Var) -> Var:
    size = op.shape(image)
    normal = op.clip(op.cast(image, to=np.float32), op.const(np.float32(HU_LOW)), op.const(np.float32(HU_HIGH)))
    middle, half = (HU_HIGH + HU_LOW) / 2, (HU_HIGH - HU_LOW) / 2
    normal = op.div(op.sub(normal, op.const(np.float32(middle))), op.const(np.float32(half)))

    extent = op.mul(op.cast(size, to=np.float32), spacing)
    cells = op.cast(op.round(op.div(extent, op.const(np.float32(SPACING)))), to=np.int64)
    cells = op.max([cells, op.const(np.int64(1))])
    grid = _resized(_batched(normal), cells)
    missing = op.mod(op.sub(op.const(np.int64(MULTIPLE)), op.mod(cells, _MULTIPLE)), _MULTIPLE)
    none = op.const(np.zeros(5, np.int64))
    pads = op.concat([none, op.const(np.zeros(2, np.int64)), missing], axis=0)
    share = op.sigmoid(network(run, op.pad(grid, pads, mode="edge")))

    first, all_axes = op.const(np.zeros(3, np.int64)), op.const(np.array((2, 3, 4)))
    share = _resized(op.slice(share, first, cells, all_axes), size)
    level = op.round(op.mul(share, op.const(np.float32(255))))
    return op.reshape(op.cast(level, to=np.uint8), size)


_MULTIPLE = op.const(np.int64(MULTIPLE))


def _batched(x: Var) -> Var:
    return op.unsqueeze(x, op.const(np.array((0, 1))))


def _resized(x: Var, size: Var) -> Var:
    """Resize the three axes of space linearly; the edges of both grids coincide."""
    whole = op.concat([op.const(np.array((1, 1))), size], axis=0)
    return op.resize(x, sizes=whole, mode="linear", coordinate_transformation_mode="half_pixel")


class _Spox:
    """The network's operations as ONNX operators, (batch, channel, z, y, x)."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def convolve(self, layer: str, x: Var) -> Var:
        """Convolve; zeros around."""
        size = LAYERS[layer][0]
        kernel, bias = (op.const(self._weights[f"{layer}.{part}"]) for part in ("kernel", "bias"))
        return op.conv(x, kernel, bias, kernel_shape=[size] * 3, pads=[size // 2] * 6)

    def rectify(self, x: Var) -> Var:
        """Set what is negative to 0."""
        return op.relu(x)

    def pool(self, x: Var) -> Var:
        """Take the maximum of blocks."""
        return op.max_pool(x, kernel_shape=[2, 2, 2], strides=[2, 2, 2])[0]

    def enlarge(self, x: Var) -> Var:
        """Repeat each voxel."""
        scales = op.const(np.array((1, 1, 2, 2, 2), np.float32))
        return op.resize(
            x, scales=scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )

    def join(self, a: Var, b: Var) -> Var:
        """Concatenate channels."""
        return op.concat([a, b], axis=1)

    def fold(self, x: Var) -> Var:
        """Move blocks to channels."""
        z, y, x_ = (op.div(n, op.const(np.array([2]))) for n in _sizes(x))
        two, one, eight = (op.const(np.array([n])) for n in (2, 1, 8))
        split = op.reshape(x, op.concat([one, z, two, y, two, x_, two], axis=0))
        return op.reshape(op.transpose(split, perm=[0, 2, 4, 6, 1, 3, 5]), op.concat([one, eight, z, y, x_], axis=0))

    def unfold(self, x: Var) -> Var:
        """Move channels to blocks."""
        z, y, x_ = _sizes(x)
        two, one = (op.const(np.array([n])) for n in (2, 1))
        split = op.transpose(
            op.reshape(x, op.concat([one, two, two, two, z, y, x_], axis=0)), perm=[0, 4, 1, 5, 2, 6, 3]
        )
        doubled = [op.mul(n, two) for n in (z, y, x_)]
        return op.reshape(split, op.concat([one, one, *doubled], axis=0))


def _sizes(x: Var) -> list[Var]:
    """Return the sizes of the three axes of space, each as a tensor of one element."""
    shape = op.shape(x)
    return [op.gather(shape, op.const(np.array([axis]))) for axis in (2, 3, 4)]
