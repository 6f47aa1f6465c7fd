"""A study is complete when its CT makes a volume; otherwise it is said what is wrong."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auscult.imaging.completeness import judge
from auscult.imaging.header import InstanceHeader
from auscult.imaging.slices import primary_series, stack
from dicom_factory import ct_series, encode, structure_set


def headers_of(datasets: list) -> list[InstanceHeader]:
    """Return the headers of data sets."""
    return [InstanceHeader.read(encode(dataset)) for dataset in datasets]


SLICES = ct_series((9, 4, 4), (2.0, 1.0, 1.0))
CT = headers_of(SLICES)


def moved(header: InstanceHeader, *by: float) -> InstanceHeader:
    """Return `header` at another place."""
    return replace(header, position=tuple(np.array(header.position) + by))


def test_a_whole_series_is_complete_in_any_order() -> None:
    """The order of arrival does not matter."""
    shuffled = random.Random(1).sample(CT, len(CT))  # noqa: S311
    assert judge(shuffled).status == "complete"
    assert [header.instance_number for header in stack(shuffled).slices] == list(range(1, 10))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 2))
def test_missing_slices_are_counted_and_placed(first: int, count: int) -> None:
    """It says how many slices are missing, and between which."""
    judged = judge(CT[:first] + CT[first + count :])
    assert (judged.status, judged.reason) == ("incomplete", "missing-slices")
    assert f"{count} between slices {first} and {first + count + 1}" in judged.detail


def test_a_slice_that_lies_where_another_does_is_ambiguous() -> None:
    """Two phases in one series are not one volume."""
    judged = judge([*CT, replace(CT[4], sop_instance_uid="1.2.3", instance_number=50)])
    assert (judged.status, judged.reason) == ("ambiguous", "duplicated-slices")


@pytest.mark.parametrize("count", [1, 2])
def test_a_few_slices_are_no_volume_yet(count: int) -> None:
    """Below three slices nothing is computed."""
    assert judge(CT[:count]).reason == "too-few-slices"


def test_uneven_spacing_is_named() -> None:
    """A slice half way between two places breaks the grid."""
    judged = judge([*CT[:4], moved(CT[4], 0, 0, 0.8), *CT[5:]])
    assert (judged.status, judged.reason) == ("incomplete", "irregular-spacing")


def test_positions_written_with_one_decimal_are_even() -> None:
    """Rounded positions are within the tolerance."""
    fine = headers_of(ct_series((9, 4, 4), (0.625, 1.0, 1.0)))
    rounded = [replace(header, position=tuple(round(value, 1) for value in header.position)) for header in fine]
    assert judge(rounded).status == "complete"


def test_a_tilted_gantry_is_named() -> None:
    """Slices that are shifted against each other are no grid."""
    tilted = [moved(header, 0, 0.4 * index, 0) for index, header in enumerate(CT)]
    assert (judge(tilted).status, judge(tilted).reason) == ("ambiguous", "gantry-tilt")


def test_slices_of_different_size_are_no_volume() -> None:
    """Rows, pixel spacing and orientation are the same on all slices."""
    for change in ({"rows": 5}, {"pixel_spacing": (2.0, 2.0)}, {"orientation": (0.96, 0.28, 0, -0.28, 0.96, 0)}):
        assert judge([*CT[:-1], replace(CT[-1], **change)]).reason == "mixed-geometry"


def test_two_patients_in_a_study_are_quarantined() -> None:
    """Another id, issuer, birth date or sex on one instance is doubt about whose study it is."""
    patient = CT[0].patient
    for change in ({"patient_id": "P-2"}, {"issuer": "OTHER"}, {"sex": "M"}, {"patient_id": ""}):
        judged = judge([*CT[:-1], replace(CT[-1], patient=replace(patient, **change))])
        assert (judged.status, judged.reason) == ("quarantine", "two-patients")
        assert "P-1" not in judged.detail


def test_an_issuer_that_a_planning_system_left_out_is_no_doubt() -> None:
    """Silence about issuer, birth date or sex contradicts nothing."""
    silent = replace(CT[-1].patient, issuer="", birth_date=None, sex="")
    assert judge([*CT[:-1], replace(CT[-1], patient=silent)]).status == "complete"


def test_a_study_without_ct_is_skipped() -> None:
    """A structure set alone, or a localiser, leaves nothing to compute."""
    alone = headers_of([structure_set(SLICES, {"GTV": []})])
    localiser = headers_of(ct_series((1, 4, 4), image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")))
    for headers in ([], alone, localiser):
        assert (judge(headers).status, judge(headers).reason) == ("skipped", "no-image-series")


def test_the_series_that_was_drawn_on_is_the_one_that_counts() -> None:
    """A structure set's series goes before a longer one; else original, long and thin goes first."""
    study = SLICES[0].StudyInstanceUID
    short = ct_series((4, 4, 4), study_uid=study)
    reformatted = ct_series((20, 4, 4), study_uid=study, image_type=("DERIVED", "SECONDARY", "REFORMATTED"))
    both = CT + headers_of(short) + headers_of(reformatted)
    assert primary_series(both)[0].series_uid == CT[0].series_uid
    drawn = [*both, *headers_of([structure_set(short, {"GTV": []})])]
    assert primary_series(drawn)[0].series_uid == short[0].SeriesInstanceUID


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.floats(-3, 3)] * 3), st.floats(0.5, 5))
def test_the_grid_maps_each_slice_to_its_position(turn: tuple[float, float, float], spacing: float) -> None:
    """Whatever the orientation, voxel (i, 0, 0) lies where slice i says, to 1e-4 mm."""
    a, b, c = turn
    around_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    around_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    around_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    row, column, normal = (around_x @ around_y @ around_z).T
    slices = [
        replace(header, position=tuple(100 * row + i * spacing * normal), orientation=(*row, *column))
        for i, header in enumerate(CT)
    ]
    made = stack(slices[::-1])
    for index, header in enumerate(made.slices):
        assert np.allclose(made.geometry.to_patient([index, 0, 0]), header.position, rtol=0, atol=1e-4)
    assert np.allclose(made.geometry.axes @ made.geometry.axes.T, np.eye(3), rtol=0, atol=1e-9)
    assert made.slices == tuple(slices)
