"""Small volumes, and what MONAI's `sliding_window_inference` makes of them.

`golden/monai_1_3_2.npz` was written by running this file where MONAI is installed; the tests only read it:

    python -m venv monai && monai/bin/pip install monai==1.3.2 torch==1.13.1 "numpy<2"
    monai/bin/python tests/inference/monai_reference.py
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent / "golden" / "monai_1_3_2.npz"

Sizes = tuple[int, int, int]


@dataclass(frozen=True)
class Case:
    """Arguments of `sliding_window_inference`, and of which voxels the result is kept."""

    shape: Sizes
    roi_size: Sizes
    overlap: float
    mode: str
    sigma_scale: float = 0.125
    padding_mode: str = "constant"
    cval: float = 0.0
    kept: Sizes = (1, 1, 1)
    """Every n-th voxel on each axis."""


CASES = {
    "gaussian": Case((13, 10, 9), (6, 4, 5), 0.5, "gaussian"),
    "constant": Case((13, 10, 9), (6, 4, 5), 0.25, "constant"),
    "anisotropic": Case((7, 12, 11), (2, 8, 5), 0.6, "gaussian", sigma_scale=0.2),
    "small": Case((3, 10, 4), (6, 4, 7), 0.5, "gaussian", cval=-1.5),
    "single_slice": Case((1, 9, 9), (4, 4, 4), 0.25, "gaussian"),
    "reflect": Case((5, 10, 6), (8, 4, 7), 0.25, "constant", padding_mode="reflect"),
    "replicate": Case((5, 10, 6), (8, 4, 7), 0.25, "gaussian", padding_mode="replicate"),
    "circular": Case((5, 10, 6), (8, 4, 7), 0.25, "gaussian", padding_mode="circular"),
    "least_weight": Case((40, 34, 33), (32, 32, 32), 0.25, "gaussian", kept=(7, 5, 3)),
}


def volume(shape: Sizes) -> Any:
    """Return a volume [1, z, y, x] in which no two places look the same."""
    n = np.arange(int(np.prod(shape)), dtype=np.float64).reshape(1, *shape)
    return (np.sin(n * 0.37) + np.cos(n * n * 1e-3)).astype(np.float32)


def predict(batch: Any) -> Any:
    """Return two channels of scores that depend on where in the patch a voxel lies."""
    z, y, x = (np.arange(size, dtype=np.float32) for size in batch.shape[2:])
    ramp = z[:, None, None] + y[:, None] * np.float32(0.1) + x * np.float32(0.01)
    return np.concatenate([batch * ramp, batch * batch - ramp], axis=1)


def main() -> None:
    """Write the file."""
    import torch
    from monai.inferers import sliding_window_inference

    made = {}
    for name, case in CASES.items():
        z, y, x = case.kept
        made[name] = sliding_window_inference(
            torch.from_numpy(volume(case.shape)[None]),
            case.roi_size,
            3,
            lambda batch: torch.from_numpy(predict(batch.numpy())),
            case.overlap,
            case.mode,
            case.sigma_scale,
            case.padding_mode,
            case.cval,
        )[0].numpy()[:, ::z, ::y, ::x]
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **made)


if __name__ == "__main__":
    main()
