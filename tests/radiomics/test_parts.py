"""Each part agrees with a slower way to compute the same, whatever the region."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.ndimage import label
from scipy.spatial.distance import pdist

from auscult.models.radiomics.lattice import DIRECTIONS
from auscult.radiomics.chain import Chain
from auscult.radiomics.measure import Infer, measure
from auscult.radiomics.peaks import RADIUS, peaks
from auscult.radiomics.process import box_of, process
from auscult.radiomics.resample import Grid
from auscult.radiomics.shape import autocorrelation, hull
from auscult.radiomics.zones import find_zones

pytestmark = pytest.mark.golden

SPACING = st.tuples(*[st.floats(0.5, 4, width=32)] * 3).map(np.array)
LEVELS = arrays(np.int32, st.tuples(*[st.integers(1, 5)] * 3), elements=st.integers(0, 4)).filter(
    lambda levels: (levels > 0).sum() > 1
)


@given(LEVELS, SPACING)
@settings(deadline=None, max_examples=50)
def test_autocorrelation_is_that_of_all_pairs(levels: NDArray[np.int32], spacing: NDArray[np.float64]) -> None:
    """Moran's I and Geary's C by convolution are those of a loop over pairs."""
    mask = levels > 0
    values = levels[mask].astype(float)
    found = autocorrelation(levels.astype(float), mask, spacing)
    if np.ptp(values) == 0:
        assert np.isnan([found.moran, found.geary]).all()
        return
    weights = 1 / pdist(np.argwhere(mask) * spacing)
    first, second = np.triu_indices(values.size, 1)
    away = values - values.mean()
    spread = (away**2).sum() * weights.sum()
    moran = values.size * (weights * away[first] * away[second]).sum() / spread
    geary = (values.size - 1) / 2 * (weights * (away[first] - away[second]) ** 2).sum() / spread
    assert (found.moran, found.geary) == pytest.approx((moran, geary), rel=1e-9, abs=1e-9)


@given(LEVELS)
@settings(deadline=None, max_examples=50)
def test_zones_are_the_connected_components(levels: NDArray[np.int32]) -> None:
    """In each slice by eight neighbours, in the volume by 26; each level and size as labelling gives them."""
    in_slices, in_volume = find_zones(levels, levels > 0)
    eight, twenty_six = np.ones((3, 3)), np.ones((3, 3, 3))
    flat = [
        (place, level, size)
        for place, plane in enumerate(levels)
        for level in range(1, 5)
        for size in np.bincount(label(plane == level, eight)[0].ravel())[1:]
    ]
    deep = [
        (0, level, size)
        for level in range(1, 5)
        for size in np.bincount(label(levels == level, twenty_six)[0].ravel())[1:]
    ]
    assert sorted(map(tuple, in_slices[:, :3].tolist())) == sorted(flat)
    assert sorted(map(tuple, in_volume[:, :3].tolist())) == sorted(deep)
    assert in_slices[:, 3].min() >= 1


def test_distance_of_a_zone_is_that_of_its_nearest_voxel() -> None:
    """In the middle of a 5 x 5 x 5 cube a voxel is three steps from the outside, in its slice and in the volume."""
    levels = np.ones((5, 5, 5), np.int32)
    levels[2, 2, 2] = 2
    in_slices, in_volume = find_zones(levels, levels > 0)
    assert [2, 2, 1, 3] in in_slices.tolist()
    assert [0, 2, 1, 3] in in_volume.tolist()
    assert [0, 1, 124, 1] in in_volume.tolist()


@given(LEVELS, SPACING)
@settings(deadline=None, max_examples=30)
def test_texture_is_that_of_matrices_counted_one_by_one(
    infer: Infer, levels: NDArray[np.int32], spacing: NDArray[np.float64]
) -> None:
    """Co-occurrence, runs and dependences of loops over voxels give the features of the graph."""
    mask = levels > 0
    values = measure(levels, mask, spacing, Chain(bin_width=1), infer)
    shift = int(levels[mask].min()) - 1
    voxels = {tuple(place): int(levels[tuple(place)]) - shift for place in np.argwhere(mask).tolist()}
    pairs, runs = [], []
    for step in DIRECTIONS:
        for place, level in voxels.items():
            other = tuple(np.add(place, step).tolist())
            if other in voxels:
                pairs += [(level, voxels[other]), (voxels[other], level)]
            if voxels.get(tuple(np.subtract(place, step).tolist())) != level:
                length = 1
                while voxels.get(tuple((np.array(place) + np.multiply(length, step)).tolist())) == level:
                    length += 1
                runs.append((level, length))
    around = [step for step in product((-1, 0, 1), repeat=3) if any(step)]
    counts = [
        1 + sum(voxels.get(tuple(np.add(place, step).tolist())) == level for step in around)
        for place, level in voxels.items()
    ]
    length = np.array([each for _, each in runs], float)
    assert values["rlm_lre_3D_comb"] == pytest.approx((length**2).mean())
    assert values["rlm_r_perc_3D_comb"] == pytest.approx(len(runs) / (13 * len(voxels)))
    assert values["rlm_lrhge_3D_comb"] == pytest.approx(np.mean([(i * j) ** 2 for i, j in runs]))
    assert values["ngl_hde_3D"] == pytest.approx(np.mean(np.square(counts)))
    if pairs:
        assert values["cm_contrast_3D_comb"] == pytest.approx(np.mean([(i - j) ** 2 for i, j in pairs]))
        assert values["cm_auto_corr_3D_comb"] == pytest.approx(np.mean([i * j for i, j in pairs]))


@given(arrays(np.bool_, st.tuples(*[st.integers(1, 5)] * 3)).filter(lambda mask: mask.any()), SPACING)
@settings(deadline=None, max_examples=30)
def test_a_mesh_fits_its_hull_and_its_box(
    infer: Infer, mask: NDArray[np.bool_], spacing: NDArray[np.float64]
) -> None:
    """The mesh is within its convex hull, that within the box; a full box has the hull's volume."""
    values = measure(np.zeros(mask.shape), mask, spacing, Chain(bin_width=1), infer)
    outer = hull(mask, spacing.astype(np.float32).astype(float))
    box = np.prod([(part.stop - part.start) * step for part, step in zip(box_of(mask), spacing, strict=True)])
    assert 0 < values["morph_volume"] <= outer.volume * (1 + 1e-6) <= box * (1 + 1e-5)
    assert values["morph_vol_dens_aabb"] == pytest.approx(values["morph_volume"] / box, rel=1e-5)
    if mask.all():
        assert values["morph_vol_dens_conv_hull"] == pytest.approx(1, rel=1e-6)
        assert values["morph_area_dens_conv_hull"] == pytest.approx(1, rel=1e-6)


def test_a_ball_is_nearly_a_sphere(infer: Infer) -> None:
    """A ball's volume and diameter are the sphere's; its mesh, of steps, has about 9 % more surface."""
    spacing = np.array([1.0, 0.5, 0.5])
    grid = np.moveaxis(np.indices((25, 49, 49)) - np.array([12, 24, 24]).reshape(3, 1, 1, 1), 0, -1) * spacing
    mask = (grid**2).sum(axis=-1) <= 100
    values = measure(np.zeros(mask.shape), mask, spacing, Chain(bin_width=1), infer)
    assert values["morph_volume"] == pytest.approx(4 / 3 * np.pi * 1000, rel=0.01)
    assert values["morph_diam"] == pytest.approx(20, abs=1)
    assert values["morph_area_mesh"] == pytest.approx(400 * np.pi, rel=0.12)
    # An ellipsoid whose axes are the region's own: the solid ball's second moments give 2 r / sqrt(5) per semi-axis.
    assert values["morph_vol_dens_aee"] == pytest.approx((np.sqrt(5) / 2) ** 3, rel=0.01)


def test_peak_is_the_mean_in_a_sphere_of_one_cubic_centimetre() -> None:
    """Voxels within the radius count alike, beyond the region too; those that the image lacks do not."""
    image = np.random.default_rng(1).normal(size=(7, 9, 8))
    mask = np.zeros(image.shape, bool)
    mask[2:5, 3:6, 0:3] = True
    spacing = np.array([2.0, 2.5, 3.0])
    centres = np.argwhere(np.ones(image.shape)) * spacing
    means = {
        tuple(place): image.ravel()[((centres - place * spacing) ** 2).sum(axis=1) <= RADIUS**2].mean()
        for place in np.argwhere(mask)
    }
    highest = max(means, key=lambda place: image[place])
    found = peaks(image, mask, spacing)
    assert (found.local, found.highest) == pytest.approx((means[highest], max(means.values())))


def test_interpolation_keeps_the_centre_and_what_is_linear() -> None:
    """A plane in space is the same plane on another grid, by lines and by cubic splines, away from the edges."""
    spacing = np.array([3.0, 1.0, 0.5])
    index = np.indices((12, 30, 40)).astype(float)
    plane = (index * np.array([3.0, -2.0, 1.0]).reshape(3, 1, 1, 1) * spacing.reshape(3, 1, 1, 1)).sum(axis=0)
    grid = Grid.over(plane.shape, spacing, (2.0, 2.0, 2.0))
    assert grid.shape == (18, 15, 10)
    part = (slice(3, 15), slice(4, 11), slice(3, 7))
    places = np.stack(
        np.meshgrid(
            *(f + s * np.arange(p.start, p.stop) for f, s, p in zip(grid.first, grid.step, part, strict=True)),
            indexing="ij",
        )
    )
    expected = (places * np.array([3.0, -2.0, 1.0]).reshape(3, 1, 1, 1) * spacing.reshape(3, 1, 1, 1)).sum(axis=0)
    for order, tolerance in ((1, 1e-9), (3, 0.1)):
        assert grid.sample(plane, part, order) == pytest.approx(expected, abs=tolerance)


def test_a_part_of_the_grid_is_that_of_the_whole() -> None:
    """Interpolating around the region alone gives what interpolating the image gives, but for the spline's reach."""
    image = np.random.default_rng(2).normal(size=(60, 70, 80))
    grid = Grid.over(image.shape, np.array([2.0, 1.0, 1.0]), (1.5, 1.5, 1.5))
    whole = tuple(slice(0, n) for n in grid.shape)
    part = (slice(30, 40), slice(20, 26), slice(20, 30))
    for order in (0, 1, 3):
        cut = grid.sample(image, whole, order)[part]
        assert grid.sample(image, part, order) == pytest.approx(cut, abs=1e-8)


def test_bins_and_outliers() -> None:
    """A fixed number of bins fills them all; outliers of three standard deviations do not count, but for shape."""
    image = np.append(np.arange(98.0), [1e4, -1e4]).reshape(1, 10, 10)
    region = process(image, np.ones(image.shape, bool), np.ones(3), Chain(bin_number=8, outliers=3))
    assert region.intensity.sum() == 98
    assert region.morphology.sum() == 100
    assert np.unique(region.levels).tolist() == list(range(9))
    assert region.volume_bins == (0, 97, 1)
