"""The scanner: noise, kernel and slice thickness are as asked, and repeat."""

from __future__ import annotations

import numpy as np
import pytest

from auscult.imaging.phantom import Protocol, chest, scan
from auscult.imaging.phantom.anatomy import Phantom, cube

HEART = np.array((20.0, -26.0, -50.0))


@pytest.fixture(scope="module")
def person() -> Phantom:
    """Return a chest."""
    return chest(4)


def heart(person: Phantom, protocol: Protocol, spacing: tuple[float, float, float] = (1.5, 0.8, 0.8)) -> np.ndarray:
    """Return HU inside the heart, where the tissue is uniform."""
    return scan(person, cube(HEART * person.thorax.scale, 36.0, spacing), protocol).hu[:, 4:-4, 4:-4].astype(float)


@pytest.mark.parametrize("kernel", ["soft", "lung"])
@pytest.mark.parametrize("noise", [10.0, 35.0])
def test_noise_has_the_asked_deviation(person: Phantom, kernel: str, noise: float) -> None:
    """After the kernel, a uniform region keeps its mean and has the standard deviation asked for."""
    hu = heart(person, Protocol(kernel, noise))
    assert hu.mean() == pytest.approx(45, abs=2)
    assert hu.std() == pytest.approx(noise, rel=0.06)


def test_the_lung_kernel_has_the_finer_noise_and_the_sharper_edge(person: Phantom) -> None:
    """Neighbouring pixels agree less than with the soft kernel."""

    def agreement(hu: np.ndarray) -> float:
        a, b = hu[:, :, :-1].ravel(), hu[:, :, 1:].ravel()
        return float(np.corrcoef(a, b)[0, 1])

    assert agreement(heart(person, Protocol("soft"))) > agreement(heart(person, Protocol("lung"))) + 0.2


def test_the_same_scan_has_the_same_bytes_and_uids(person: Phantom) -> None:
    """A scan is decided by its arguments alone; another protocol is another series."""
    grid = cube((60.0, 0.0, 0.0), 20.0, (2.0, 1.0, 1.0))
    first, again, other = (scan(person, grid, Protocol("lung", noise)) for noise in (25.0, 25.0, 26.0))
    assert np.array_equal(first.hu, again.hu)
    assert (first.series_uid, first.sop_instance_uids) == (again.series_uid, again.sop_instance_uids)
    assert not {first.series_uid, *first.sop_instance_uids} & {other.series_uid, *other.sop_instance_uids}
    assert first.geometry.frame_of_reference_uid == other.geometry.frame_of_reference_uid


def test_thick_slices_are_means_of_thin_ones(person: Phantom) -> None:
    """A slice of 6 mm equals the mean of the four of 1.5 mm that it covers."""
    low = np.array((40.0, 0.0, -20.0))
    thin, thick = cube(low, 24.0, (1.5, 1.0, 1.0)), cube(low, 24.0, (6.0, 1.0, 1.0))
    mean = person.render(thin).reshape(4, 4, 24, 24).mean(axis=1)
    seen = scan(person, thick, Protocol("soft", noise_hu=0.0)).hu
    blurred = scan(person, thin, Protocol("soft", noise_hu=0.0)).hu.reshape(4, 4, 24, 24).mean(axis=1)
    assert np.abs(seen - blurred).mean() < 15
    assert np.abs(seen - mean).mean() < 60


def test_an_unknown_kernel_is_refused() -> None:
    """The kernels are named."""
    with pytest.raises(ValueError, match="soft, lung"):
        Protocol("B70f")
