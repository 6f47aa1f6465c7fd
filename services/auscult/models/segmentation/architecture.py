"""The network of `lung_nodule_seg`, written once: training runs it with JAX, authoring makes ONNX of it.

A 3-D U-Net (Cicek et al., MICCAI 2016, arXiv:1606.06650) whose finest level works on blocks of 2 x 2 x 2 voxels as
channels (sub-pixel convolution, Shi et al., CVPR 2016, arXiv:1609.05158), so that no convolution runs on all voxels.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

T = TypeVar("T")

SPACING = 1.25
"""mm: the isotropic grid on which the network works."""
HU_LOW, HU_HIGH = -1000.0, 400.0
"""What lies outside is clipped; the rest is mapped to -1..1."""
MULTIPLE = 8
"""The network takes sizes that are multiples of this: the blocks, and two poolings."""

LAYERS: dict[str, tuple[int, int, int]] = {
    "fine_1": (3, 8, 16),
    "fine_2": (3, 16, 16),
    "middle_1": (3, 16, 32),
    "middle_2": (3, 32, 32),
    "coarse_1": (3, 32, 40),
    "coarse_2": (3, 40, 40),
    "middle_3": (3, 72, 32),
    "fine_3": (3, 48, 16),
    "fine_4": (3, 24, 16),
    "out": (1, 16, 8),
}
"""Convolutions: kernel size, channels in, channels out. All have a bias."""


class Operations(Protocol[T]):
    """What the network needs of the library that runs it. Tensors have a batch, channels and three axes."""

    def convolve(self, layer: str, x: T) -> T:
        """Convolve with the layer's weights, zeros around, and add its bias."""

    def rectify(self, x: T) -> T:
        """Set what is negative to 0."""

    def pool(self, x: T) -> T:
        """Take the maximum of blocks of 2 x 2 x 2."""

    def enlarge(self, x: T) -> T:
        """Repeat each voxel as a block of 2 x 2 x 2."""

    def join(self, a: T, b: T) -> T:
        """Put the channels of `b` behind those of `a`."""

    def fold(self, x: T) -> T:
        """Turn blocks of 2 x 2 x 2 voxels of the one channel into 8 channels, x fastest, z slowest."""

    def unfold(self, x: T) -> T:
        """Undo `fold`."""


def network(run: Operations[T], image: T) -> T:
    """Return logits for a normalised image of one channel whose sizes are multiples of `MULTIPLE`."""

    def layer(name: str, x: T) -> T:
        return run.rectify(run.convolve(name, x))

    blocks = run.fold(image)
    fine = layer("fine_2", layer("fine_1", blocks))
    middle = layer("middle_2", layer("middle_1", run.pool(fine)))
    coarse = layer("coarse_2", layer("coarse_1", run.pool(middle)))
    middle = layer("middle_3", run.join(run.enlarge(coarse), middle))
    fine = layer("fine_3", run.join(run.enlarge(middle), fine))
    return run.unfold(run.convolve("out", layer("fine_4", run.join(fine, blocks))))
