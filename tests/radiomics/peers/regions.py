"""Write the regions that peers are compared on as NIfTI: `python regions.py FOLDER`, with the product installed."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel
import numpy as np

from auscult.imaging.files import read_pair

DATA = Path(__file__).resolve().parents[3].parent / "shared/data"
REGIONS = {
    "sarcoma": (DATA / "sarcoma_ct/STS_001_CT_image.nii.gz", DATA / "sarcoma_ct/STS_001_CT_mask.nii.gz"),
    "lung": (DATA / "lung_ct_with_gtv/image", DATA / "lung_ct_with_gtv/mask"),
}


def main(folder: Path) -> None:
    """Write `NAME_image.nii.gz` and `NAME_mask.nii.gz` of each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, files in REGIONS.items():
        pair = read_pair(*files)
        affine = np.diag([*pair.spacing[::-1], 1.0])
        for what, voxels in (("image", pair.image), ("mask", pair.mask.astype(np.uint8))):
            nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), affine), folder / f"{name}_{what}.nii.gz")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
