"""A CT series, regions on it, and a result about them."""

from __future__ import annotations

import pytest

from dicom_results import Read, read_series


@pytest.fixture(scope="session")
def read() -> Read:
    """Return a result with two findings on an oblique series."""
    return read_series()
