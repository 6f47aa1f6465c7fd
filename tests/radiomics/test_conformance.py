"""Every feature has the consensus value of the IBSI on its digital phantom and its CT phantom.

`make conformance` prints each value beside its reference and writes the table to .cache/conformance.csv.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from auscult.domain.ibsi_features import FEATURES
from auscult.domain.volume import Volume
from auscult.imaging import part10
from auscult.imaging.header import InstanceHeader
from auscult.imaging.pixels import hounsfield
from auscult.imaging.rtstruct import rtstruct_regions
from auscult.imaging.slices import stack
from auscult.radiomics.chain import ORDER, Chain
from auscult.radiomics.measure import Infer, features, measure
from auscult.radiomics.process import Processed, box_of, process
from auscult.radiomics.resample import Grid

from .conftest import DATA, Reference, Verdict

pytestmark = pytest.mark.golden

CT = DATA / "lung_ct_with_gtv"
A = Chain(resegmentation=(-500, 400), bin_width=25)
B = Chain(spacing=(None, 2, 2), resegmentation=(-500, 400), bin_number=32)
C = Chain(spacing=(2, 2, 2), resegmentation=(-1000, 400), bin_width=25, volume_bin_width=2.5)
D = Chain(spacing=(2, 2, 2), outliers=3, bin_number=32)
E = Chain(
    spacing=(2, 2, 2),
    image_interpolation="cubic",
    resegmentation=(-1000, 400),
    outliers=3,
    bin_number=32,
    volume_bin_number=1000,
)
"""Configurations of the reference manual: A and B by slice, C, D and E in the volume."""


def within(value: float, reference: float, tolerance: float) -> bool:
    """Whether `value`, or what three digits show of it, is within the tolerance; references have three digits."""
    shown = float(f"{value:.3g}")
    return any(abs(each - reference) <= tolerance + 1e-9 * abs(reference) for each in (value, shown))


def verdicts(
    table: list[Verdict], phantom: str, values: Mapping[str, float], references: Mapping[str, tuple[float, float]]
) -> list[str]:
    """Add to the table, and return the names of what is not within tolerance, or not there."""
    failed = []
    for name, (reference, tolerance) in references.items():
        met = name in values and within(values[name], reference, tolerance)
        failed += [] if met else [name]
        table.append(Verdict(phantom, name, values.get(name, float("nan")), reference, tolerance, met))
    return failed


def told(conformance: list[Verdict], way: Infer | None) -> list[Verdict]:
    """Return where verdicts go: the table is of the models, and the other ways are held to the same values."""
    return conformance if way else []


def test_digital_phantom(
    way: Infer | None,
    conformance: list[Verdict],
    reference: Reference,
    digital_phantom: tuple[NDArray[np.int16], NDArray[np.bool_], NDArray[np.float64]],
) -> None:
    """All 482 values; and a feature is called compliant exactly where its value is among them."""
    consensus = reference("digital_phantom.csv")
    values = measure(*digital_phantom, Chain(bin_width=1), way)
    assert verdicts(told(conformance, way), "digital phantom", values, consensus) == []
    assert {feature.name for feature in FEATURES if feature.compliant} == set(consensus)
    assert list(values) == [feature.name for feature in FEATURES]


@pytest.fixture(scope="session")
def ct_phantom() -> SimpleNamespace:
    """Return the CT phantom: `image` and `mask`, (z, y, x), and `spacing`, read as the services read a study."""
    if not CT.exists():
        pytest.skip("the IBSI CT phantom is not beside the repository")
    files = {header.sop_instance_uid: (header, file) for header, file in map(read, (CT / "image").iterdir())}
    stacked = stack([header for header, _ in files.values()])
    image = np.empty(stacked.geometry.shape, np.int16)
    for header, plane in zip(stacked.slices, image, strict=True):
        hounsfield(files[header.sop_instance_uid][1], plane)
    uids = tuple(header.sop_instance_uid for header in stacked.slices)
    header, structures = read(next((CT / "mask").iterdir()))
    (region,) = rtstruct_regions(
        structures.dataset,
        header.referenced_series,
        Volume(image, stacked.geometry, stacked.slices[0].series_uid, uids),
    )
    mask = np.zeros(image.shape, bool)
    mask[region.box] = region.mask
    return SimpleNamespace(image=image, mask=mask, spacing=stacked.geometry.spacing)


def read(path: Path) -> tuple[InstanceHeader, part10.Part10]:
    """Read one DICOM file and its header."""
    file = part10.read(path)
    return InstanceHeader.of(file), file


def of_image(image: NDArray[np.float64], spacing: tuple[float, ...], when: str) -> dict[str, float]:
    """Return what the table says of the image."""
    sizes = {f"img_dim_{axis}_{when}_img": float(n) for axis, n in zip("zyx", image.shape, strict=True)}
    steps = {f"vox_dim_{axis}_{when}_img": step for axis, step in zip("zyx", spacing, strict=True)}
    named = (("mean", image.mean()), ("min", image.min()), ("max", image.max()))
    return sizes | steps | {f"{name}_int_{when}_img": float(value) for name, value in named}


def of_masks(
    image: NDArray[np.float64],
    intensity: NDArray[np.bool_],
    morphology: NDArray[np.bool_],
    when: str,
    shape: tuple[int, ...],
) -> dict[str, float]:
    """Return what the table says of the region; `shape`: of the whole image."""
    values = image[intensity]
    said = {f"int_mask_dim_{axis}_{when}_roi": float(n) for axis, n in zip("zyx", shape, strict=True)}
    for kind, mask in (("int", intensity), ("morph", morphology)):
        said[f"{kind}_mask_vox_count_{when}_roi"] = float(mask.sum())
        for axis, part in zip("zyx", box_of(mask), strict=True):
            said[f"{kind}_mask_bb_dim_{axis}_{when}_roi"] = float(part.stop - part.start)
    for name, value in (("mean", values.mean()), ("min", values.min()), ("max", values.max())):
        said[f"int_mask_{name}_int_{when}_roi"] = float(value)
    return said


def diagnostics(ct: SimpleNamespace, chain: Chain, region: Processed) -> dict[str, float]:
    """Return the image and the region before and after each step of the chain."""
    grid = Grid.over(ct.image.shape, ct.spacing, chain.spacing)
    whole = (slice(0, grid.shape[0]), slice(0, grid.shape[1]), slice(0, grid.shape[2]))
    image = ct.image.astype(float)
    interpolated = np.floor(grid.sample(image, whole, ORDER[chain.image_interpolation]) + 0.5)
    shape = region.morphology
    return (
        of_image(image, tuple(ct.spacing), "init")
        | of_image(interpolated, grid.spacing, "interp")
        | of_masks(image, ct.mask, ct.mask, "init", image.shape)
        | of_masks(region.image, shape, shape, "interp", grid.shape)
        | of_masks(region.image, region.intensity, shape, "reseg", grid.shape)
    )


@pytest.mark.parametrize(("chain", "name"), [(A, "A"), (B, "B"), (C, "C"), (D, "D"), (E, "E")], ids=list("ABCDE"))
def test_ct_phantom(
    *,
    way: Infer | None,
    conformance: list[Verdict],
    reference: Reference,
    ct_phantom: SimpleNamespace,
    chain: Chain,
    name: str,
) -> None:
    """Every value of the configuration: the image at each step of the chain, and the features."""
    consensus = reference(f"ct_phantom_config_{name}.csv")
    region = process(ct_phantom.image, ct_phantom.mask, ct_phantom.spacing, chain)
    values = diagnostics(ct_phantom, chain, region) | features(region, way)
    if chain.volume_bin_number is not None:
        # The table numbers the bins of E, where this project gives the intensity in a bin's middle.
        first, _, width = region.volume_bins
        levels = {name: (values[name] - first) / width + 1 for name in ("ivh_i10", "ivh_i90")}
        values |= levels | {"ivh_diff_i10_i90": levels["ivh_i10"] - levels["ivh_i90"]}
    assert verdicts(told(conformance, way), f"CT phantom, {name}", values, consensus) == []
