"""Code in this process gives what the models give, with numpy alone and by the compiled kernels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from auscult.radiomics import counting, native
from auscult.radiomics.chain import Chain
from auscult.radiomics.measure import Infer, features, here, modelled
from auscult.radiomics.mesh import mesh
from auscult.radiomics.peaks import peaks
from auscult.radiomics.process import process
from auscult.radiomics.shape import autocorrelation, hull

SPACING = st.tuples(*[st.floats(0.5, 4, width=32)] * 3).map(np.array)
LEVELS = arrays(np.int32, st.tuples(*[st.integers(1, 6)] * 3), elements=st.integers(0, 4)).filter(np.any)
OF_AXES = {
    *(f"morph_pca_{name}" for name in ("min_axis", "least_axis", "elongation", "flatness")),
    *(f"morph_{name}_dens_aee" for name in ("vol", "area")),
}
kernels = pytest.mark.skipif(not native.available(), reason="the package was built without a C compiler")


@kernels
@given(LEVELS, st.data())
@settings(deadline=None, max_examples=40)
def test_the_kernels_count_what_numpy_counts(levels: NDArray[np.int32], data: st.DataObject) -> None:
    """All matrices' sums, where the region is larger than what of it counts, too."""
    more = data.draw(arrays(np.bool_, levels.shape))
    for name, one, other in zip(
        counting.Sums._fields,
        native.count(levels, (levels > 0) | more),
        counting.count(levels, (levels > 0) | more),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-9, err_msg=name)


@kernels
@given(LEVELS, SPACING, st.data())
@settings(deadline=None, max_examples=20)
def test_the_kernels_measure_what_numpy_measures(
    levels: NDArray[np.int32], spacing: NDArray[np.float64], data: st.DataObject
) -> None:
    """Shape, autocorrelation and peaks, also where voxels beside the region are not finite."""
    mask = levels > 0
    image = np.where(mask | data.draw(arrays(np.bool_, levels.shape)), levels * 10.0, np.nan)

    def measured() -> list[float]:
        outer, together = hull(mask, spacing), autocorrelation(levels.astype(float), mask, spacing)
        local = peaks(image, mask, spacing)
        return [
            *mesh(mask, spacing), outer.volume, outer.area, outer.diameter, together.moran, together.geary,
            local.local, local.highest,
        ]  # fmt: skip

    found = measured()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "available", lambda: False)
        assert found == pytest.approx(measured(), rel=1e-11, abs=1e-9, nan_ok=True)


@kernels
def test_long_axes_are_left_to_numpy() -> None:
    """The kernels keep a counter for each length of a run, so that they refuse axes without end."""
    assert native.serves(np.ones((1, 1, native.LONGEST), np.int32))
    assert not native.serves(np.ones((1, 1, native.LONGEST + 1), np.int32))


@pytest.mark.golden
@given(LEVELS, SPACING)
@settings(deadline=None, max_examples=40)
def test_code_computes_what_the_models_compute(
    infer: Infer, levels: NDArray[np.int32], spacing: NDArray[np.float64]
) -> None:
    """Every feature of any region, and NaN where the models have it.

    But for a line or a plane askew: it has an axis of 0, where the graph's rotations leave 1e-9 mm.
    """
    region = process(levels, levels > 0, spacing, Chain(bin_width=1))
    expected = modelled(region, infer)
    for count in (counting.count, *([native.count] if native.available() else [])):
        found = here(region, count)
        for name, value in expected.items():
            if name in OF_AXES and found["morph_pca_least_axis"] == 0:
                continue
            assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-9, nan_ok=True), name


@pytest.mark.golden
def test_a_second_run_gives_the_same_bits() -> None:
    """Nothing depends on how the work was scheduled: all sums are taken in one order, on one thread."""
    image = np.random.default_rng(7).integers(-100, 300, (20, 25, 30))
    region = process(image, image > -50, np.ones(3), Chain(bin_width=25))
    assert features(region) == features(region)
