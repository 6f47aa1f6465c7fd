"""Where definitions agree, so do numbers: PyRadiomics on a real tumour.

`pyradiomics.csv` holds what PyRadiomics 3.0.1 gave for the sarcoma CT STS_001 of the IBSI's validation set (CC BY
3.0): no interpolation, bins of 25, distance 1, symmetric co-occurrence. It needs a compiler to install, so it is no
dependency of the tests.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from auscult.imaging.files import read_pair
from auscult.radiomics.chain import Chain
from auscult.radiomics.measure import Infer, measure

from .conftest import DATA

pytestmark = pytest.mark.golden

BIN = 25


def test_agrees_with_pyradiomics(infer: Infer) -> None:
    """100 features, 96 of them by the same definition, to nine digits; the other four differ as is known.

    PyRadiomics gives kurtosis without subtracting 3, and axes from the covariance over n instead of n - 1.
    """
    folder = DATA / "sarcoma_ct"
    if not folder.exists():
        pytest.skip("the sarcoma CT is not beside the repository")
    pair = read_pair(folder / "STS_001_CT_image.nii.gz", folder / "STS_001_CT_mask.nii.gz")
    # Its bins begin at multiples of their width, ours where the range begins.
    start = float(np.floor(pair.image[pair.mask].min() / BIN) * BIN)
    chain = Chain(bin_width=BIN, resegmentation=(start, 1e5))
    values = measure(pair.image, pair.mask, pair.spacing, chain, infer)
    count = int(pair.mask.sum())
    values["stat_kurt"] += 3
    for axis in ("maj", "min", "least"):
        values[f"morph_pca_{axis}_axis"] *= np.sqrt((count - 1) / count)
    with (Path(__file__).parent / "pyradiomics.csv").open() as file:
        recorded = {row["feature"]: float(row["value"]) for row in csv.DictReader(file)}
    assert len(recorded) == 100
    for name, value in recorded.items():
        assert values[name] == pytest.approx(value, rel=1e-9), name
