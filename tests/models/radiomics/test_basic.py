"""`radiomics_basic` gives the consensus values of the IBSI, and says what it does where there is none."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from auscult.domain.ibsi import HISTOGRAM, MORPHOLOGY, RADIOMICS_BASIC, STATISTICS

Run = Callable[[str, dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]

PHANTOM = Path(__file__).parents[3].parent / "shared/data/ibsi_digital_phantom"
CONSENSUS = {
    "volume": "morph_vol_approx",
    "major-axis-length": "morph_pca_maj_axis",
    "minor-axis-length": "morph_pca_min_axis",
    "least-axis-length": "morph_pca_least_axis",
    "elongation": "morph_pca_elongation",
    "flatness": "morph_pca_flatness",
    "mean": "stat_mean",
    "variance": "stat_var",
    "skewness": "stat_skew",
    "kurtosis": "stat_kurt",
    "median": "stat_median",
    "minimum": "stat_min",
    "percentile-10": "stat_p10",
    "percentile-90": "stat_p90",
    "maximum": "stat_max",
    "interquartile-range": "stat_iqr",
    "range": "stat_range",
    "mean-absolute-deviation": "stat_mad",
    "robust-mean-absolute-deviation": "stat_rmad",
    "median-absolute-deviation": "stat_medad",
    "coefficient-of-variation": "stat_cov",
    "quartile-coefficient-of-dispersion": "stat_qcod",
    "energy": "stat_energy",
    "root-mean-square": "stat_rms",
    "entropy": "ih_entropy",
    "uniformity": "ih_uniformity",
}
"""The consensus table's name of each feature."""


def measure(
    run: Run,
    image: Any,
    mask: Any = None,
    *,
    spacing: tuple[float, ...] = (1, 1, 1),
    bin_width: float = 1,
    bin_min: float = 0,
) -> dict[str, float]:
    """Return the features by name; without a mask those of the whole image, in unit bins from 0."""
    image = np.asarray(image, np.float32)
    answer = run(
        "radiomics_basic",
        {
            "image": image,
            "mask": np.ones(image.shape, bool) if mask is None else np.asarray(mask, bool),
            "spacing": np.asarray(spacing, np.float32),
            "bin_width": np.array([bin_width], np.float32),
            "bin_min": np.array([bin_min], np.float32),
        },
    )["features"]
    return dict(zip((feature.name for feature in RADIOMICS_BASIC), answer.tolist(), strict=True))


def family(features: dict[str, float], name: str) -> dict[str, float]:
    """Return the features of one family."""
    return {each.name: features[each.name] for each in RADIOMICS_BASIC if each.family == name}


def test_features_called_compliant_have_the_consensus_value(run: Run) -> None:
    """On IBSI's digital phantom, within the published tolerance, or at three digits where that is zero."""
    if not PHANTOM.exists():
        pytest.skip("the IBSI digital phantom is not beside the repository")
    with (PHANTOM / "digital_phantom.csv").open() as file:
        consensus = {
            row["feature"]: (float(row["reference"]), float(row["tolerance"])) for row in csv.DictReader(file)
        }
    with np.load(PHANTOM / "digital_phantom.npz") as data:
        features = measure(run, data["image"], data["mask"], spacing=tuple(data["spacing"]), bin_min=1)
    compliant = [feature.name for feature in RADIOMICS_BASIC if feature.compliant]
    assert compliant == list(CONSENSUS)
    for name in compliant:
        reference, tolerance = consensus[CONSENSUS[name]]
        value = features[name] if tolerance else float(f"{features[name]:.3g}")
        assert value == pytest.approx(reference, abs=tolerance or 1e-12), name


def percentile(values: NDArray[np.float64], percent: float) -> float:
    """Return the percentile by nearest rank, as numpy defines it."""
    return float(np.percentile(values, percent, method="inverted_cdf"))


def expected(values: NDArray[np.float64]) -> dict[str, float]:
    """Return the statistics and the histogram in unit bins, computed without the graph."""
    p10, p25, p75, p90 = (percentile(values, percent) for percent in (10, 25, 75, 90))
    sigma = values.std()
    inner = values[(values >= p10) & (values <= p90)]
    _, counts = np.unique(np.floor(values), return_counts=True)
    share = counts / counts.sum()
    ratio = np.divide
    return {
        "mean": values.mean(),
        "variance": sigma**2,
        "skewness": ((values - values.mean()) ** 3).mean() / sigma**3 if sigma else 0,
        "kurtosis": ((values - values.mean()) ** 4).mean() / sigma**4 - 3 if sigma else 0,
        "median": float(np.median(values)),
        "minimum": values.min(),
        "percentile-10": p10,
        "percentile-90": p90,
        "maximum": values.max(),
        "interquartile-range": p75 - p25,
        "range": np.ptp(values),
        "mean-absolute-deviation": abs(values - values.mean()).mean(),
        "robust-mean-absolute-deviation": abs(inner - inner.mean()).mean(),
        "median-absolute-deviation": abs(values - np.median(values)).mean(),
        "coefficient-of-variation": ratio(sigma, values.mean()) if values.mean() else np.nan,
        "quartile-coefficient-of-dispersion": ratio(p75 - p25, p75 + p25) if p75 + p25 else np.nan,
        "energy": (values**2).sum(),
        "root-mean-square": np.sqrt((values**2).mean()),
        "entropy": -(share * np.log2(share)).sum(),
        "uniformity": (share**2).sum(),
    }


@given(
    arrays(
        np.float32,
        st.tuples(*[st.integers(1, 5)] * 3),
        elements=st.integers(-1024, 3071) | st.sampled_from((-700.25, 0, 40.5)),
    )
)
@settings(deadline=None)
def test_intensities_agree_with_numpy(run: Run, image: NDArray[np.float32]) -> None:
    """Statistics and histogram are those of an independent computation, whatever the intensities."""
    features = measure(run, image)
    values = image.astype(np.float64).ravel()
    scale = max(1.0, float((values**2).sum()))
    for name, value in expected(values).items():
        if name == "coefficient-of-variation" and abs(values.mean()) < 1e-9:
            continue  # the mean of a symmetric sample is zero up to rounding, and the ratio anything
        tolerance = 1e-14 * scale if name in {"variance", "energy"} else 1e-10
        assert features[name] == pytest.approx(value, rel=1e-8, abs=tolerance, nan_ok=True), name


@given(
    arrays(np.bool_, st.tuples(*[st.integers(1, 6)] * 3)).filter(lambda mask: mask.sum() > 1),
    st.tuples(*[st.floats(0.25, 8, width=32)] * 3),
)
@settings(deadline=None)
def test_axes_agree_with_numpy(run: Run, mask: NDArray[np.bool_], spacing: tuple[float, ...]) -> None:
    """Volume and axes are those of an independent computation, whatever the region and the spacing."""
    features = measure(run, np.zeros(mask.shape), mask, spacing=spacing)
    steps = np.array(spacing, np.float32).astype(np.float64)
    covariance = np.cov((np.argwhere(mask) * steps).T)
    least, minor, major = np.sqrt(np.clip(np.linalg.eigvalsh(covariance), 0, None))
    # The square root of a rounding error of the largest eigenvalue.
    tolerance = 4e-7 * major
    assert features["volume"] == pytest.approx(mask.sum() * steps.prod())
    for name, length in (("major", major), ("minor", minor), ("least", least)):
        assert features[f"{name}-axis-length"] == pytest.approx(4 * length, abs=4 * tolerance)
    assert features["elongation"] == pytest.approx(minor / major, abs=4e-7)
    assert features["flatness"] == pytest.approx(least / major, abs=4e-7)


def test_ellipsoid_has_its_own_axes(run: Run) -> None:
    """A filled ellipsoid's axis lengths are its diameters times 2 / sqrt(5), whatever grid it lies on."""
    spacing = np.array([2.0, 0.5, 1.0])
    grid = np.moveaxis(np.indices((21, 61, 41)) - np.array([10, 30, 20]).reshape(3, 1, 1, 1), 0, -1) * spacing
    mask = ((grid / [18, 12, 9]) ** 2).sum(axis=-1) <= 1
    features = measure(run, np.zeros(mask.shape), mask, spacing=tuple(spacing))
    assert features["volume"] == pytest.approx(4 / 3 * np.pi * 18 * 12 * 9, rel=0.01)
    for name, radius in (("major", 18), ("minor", 12), ("least", 9)):
        assert features[f"{name}-axis-length"] == pytest.approx(4 * radius / np.sqrt(5), rel=0.01)


def test_empty_region_has_no_features(run: Run) -> None:
    """Without a voxel every feature is NaN."""
    assert np.isnan(list(measure(run, np.ones((2, 3, 4)), np.zeros((2, 3, 4))).values())).all()
    assert np.isnan(list(measure(run, np.ones((0, 3, 4))).values())).all()


def test_one_voxel_has_a_volume_and_no_shape(run: Run) -> None:
    """One voxel: axes of length 0, ratios of axes NaN, its intensity everywhere, and no spread."""
    mask = np.zeros((2, 2, 2))
    mask[1, 0, 1] = 1
    features = measure(run, np.full((2, 2, 2), -350.5), mask, spacing=(2.5, 0.5, 0.5))
    assert features["volume"] == 0.625
    assert [features[f"{axis}-axis-length"] for axis in ("major", "minor", "least")] == [0, 0, 0]
    assert np.isnan([features["elongation"], features["flatness"]]).all()
    assert {features[name] for name in ("mean", "median", "minimum", "maximum", "percentile-10")} == {-350.5}
    assert {features[name] for name in ("variance", "skewness", "kurtosis", "range", "entropy")} == {0}
    assert features["uniformity"] == 1


@pytest.mark.parametrize("value", [-700.1, 0.1, 40])
def test_flat_region_has_exactly_no_spread(run: Run, value: float) -> None:
    """In a flat region rounding makes neither variance nor skewness; both are 0, as the IBSI asks."""
    features = measure(run, np.full((3, 5, 7), value))
    spread = ("variance", "skewness", "kurtosis", "range", "mean-absolute-deviation", "median-absolute-deviation")
    for name in (*spread, "robust-mean-absolute-deviation", "interquartile-range", "coefficient-of-variation"):
        assert features[name] == 0, name
    assert features["mean"] == np.float32(value)


def test_ratio_to_zero_is_no_number(run: Run) -> None:
    """Where mean and quartiles add up to 0, the coefficients that divide by them are NaN."""
    features = measure(run, [[[-1, -1, 1, 1]]])
    assert np.isnan(features["coefficient-of-variation"])
    assert np.isnan(features["quartile-coefficient-of-dispersion"])
    assert np.isfinite(features["kurtosis"])


def test_line_is_flat_and_long(run: Run) -> None:
    """A row of voxels has one axis; the others, and their ratios to it, are exactly 0."""
    features = measure(run, np.zeros((1, 1, 5)), spacing=(1, 1, 2))
    assert features["major-axis-length"] == pytest.approx(4 * np.sqrt(10))
    assert [features[name] for name in ("minor-axis-length", "least-axis-length", "elongation", "flatness")] == [
        0
    ] * 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_intensity_that_is_no_number_spoils_intensities_alone(run: Run, bad: float) -> None:
    """One such voxel inside makes intensities NaN and leaves the shape; outside it does nothing."""
    image, mask = np.arange(8.0).reshape(2, 2, 2), np.ones((2, 2, 2))
    image[0, 0, 0] = bad
    inside = measure(run, image, mask)
    assert np.isnan([*family(inside, STATISTICS).values(), *family(inside, HISTOGRAM).values()]).all()
    assert np.isfinite(list(family(inside, MORPHOLOGY).values())).all()
    mask[0, 0, 0] = 0
    assert np.isfinite(list(measure(run, image, mask).values())).all()


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_bad_spacing_spoils_the_shape_alone(run: Run, bad: float) -> None:
    """A spacing that is not positive and finite makes morphology NaN."""
    features = measure(run, np.arange(8.0).reshape(2, 2, 2), spacing=(1, bad, 1))
    assert np.isnan(list(family(features, MORPHOLOGY).values())).all()
    assert np.isfinite([*family(features, STATISTICS).values(), *family(features, HISTOGRAM).values()]).all()


@pytest.mark.parametrize("bins", [(0.0, 0.0), (-25.0, 0.0), (np.nan, 0.0), (np.inf, 0.0), (25.0, np.nan)])
def test_bad_bins_spoil_the_histogram_alone(run: Run, bins: tuple[float, float]) -> None:
    """A bin width that is not positive and finite, or a bound that is not finite, makes the histogram NaN."""
    features = measure(run, np.arange(8.0).reshape(2, 2, 2), bin_width=bins[0], bin_min=bins[1])
    assert np.isnan(list(family(features, HISTOGRAM).values())).all()
    assert np.isfinite([*family(features, MORPHOLOGY).values(), *family(features, STATISTICS).values()]).all()


def test_bins_start_at_their_bound_and_go_on_below(run: Run) -> None:
    """With a width of 25 from -1000, -1001 has a bin of its own, and -1000 and -976 share one."""
    assert measure(run, [[[-1000, -976]]], bin_width=25, bin_min=-1000)["uniformity"] == 1
    assert measure(run, [[[-1000, -975]]], bin_width=25, bin_min=-1000)["entropy"] == pytest.approx(1)
    assert measure(run, [[[-1001, -1000]]], bin_width=25, bin_min=-1000)["entropy"] == pytest.approx(1)


@pytest.mark.parametrize("shape", [(3, 2, 4), (2, 3, 5), (1, 3, 4), (4, 3, 2)])
def test_mask_of_another_shape_is_an_error(run: Run, shape: tuple[int, ...]) -> None:
    """An image and a mask that do not fit are refused, never paired in some way."""
    with pytest.raises(Exception, match="axis dimensions must match"):
        measure(run, np.zeros((2, 3, 4)), np.ones(shape))


def test_order_of_features_is_in_the_repository(repository: Path) -> None:
    """A reader without this code finds names, codes and units in the configuration."""
    text = (repository / "radiomics_basic" / "config.pbtxt").read_text()
    properties = onnx.load(repository / "radiomics_basic/1/model.onnx").metadata_props
    table = {
        "features": [feature.name for feature in RADIOMICS_BASIC],
        "ibsi_codes": [feature.code.code for feature in RADIOMICS_BASIC],
        "units": [feature.unit for feature in RADIOMICS_BASIC],
    }
    assert {entry.key: entry.value.split(",") for entry in properties} == table
    for key, values in table.items():
        assert f'key: "{key}" value {{ string_value: "{",".join(values)}" }}' in text
