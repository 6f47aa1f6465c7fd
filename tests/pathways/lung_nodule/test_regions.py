"""Which regions are taken for nodules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from auscult.pathways.lung_nodule.regions import NAMES, connected


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0), st.tuples(*[st.integers(1, 7)] * 3))
def test_parts_are_those_of_a_dense_labelling(seed: int, share: float, shape: tuple[int, int, int]) -> None:
    """On any mask, also at its edges, the sparse search finds what scipy finds in the whole array."""
    mask = np.random.default_rng(seed).random(shape) < share
    labels, count = label(mask)
    expected = {frozenset(map(tuple, np.argwhere(labels == number))) for number in range(1, count + 1)}
    found = [frozenset(map(tuple, part)) for part in connected(np.argwhere(mask), shape)]
    assert len(found) == count
    assert set(found) == expected


@pytest.mark.parametrize("name", ["GTV-1", "Nodule", "lung tumor", "Tumour right", "Lesion 2", "MASS"])
def test_names_that_people_give_to_tumours(name: str) -> None:
    """These are taken as drawn nodules."""
    assert NAMES.search(name)


@pytest.mark.parametrize("name", ["Heart", "Lung_L", "SpinalCord", "BODY", "PTV"])
def test_organs_and_margins_are_not_nodules(name: str) -> None:
    """Organs at risk and planning margins are left out."""
    assert NAMES.search(name) is None
