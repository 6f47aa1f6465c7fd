"""Series as scanners, archives and viewers write them: each pixel lies where its header says, to 1e-4 mm."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from auscult.domain.study import PatientIdentity
from auscult.imaging.completeness import judge
from auscult.imaging.header import InstanceHeader
from auscult.imaging.marks import Marks
from auscult.imaging.slices import Stack, primary_series, stack

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
SIZE = 512
STRAIGHT = [
    tuple(float(sign * (axis == at)) for at, sign in zip(order, signs, strict=True) for axis in range(3))
    for order in permutations(range(3), 2)
    for signs in product((1, -1), repeat=2)
]
"""Axial, sagittal and coronal slices of patients who lie head or feet first, supine, prone or on a side."""


def rounded(values: Sequence[float], decimals: int) -> tuple[float, ...]:
    """Return numbers as a header of so many decimals has them."""
    return tuple(float(f"{value:.{decimals}f}") for value in values)


@st.composite
def orientations(draw: st.DrawFn) -> tuple[float, ...]:
    """Draw a straight or an oblique orientation, with six decimals or all."""
    if draw(st.booleans()):
        return draw(st.sampled_from(STRAIGHT))
    turn = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-3.14, 3.14)] * 3))).as_matrix()
    return rounded([*turn[:, 0], *turn[:, 1]], draw(st.sampled_from((6, 12))))


@st.composite
def series(draw: st.DrawFn, sop_class: str = CT) -> list[InstanceHeader]:
    """Draw the headers of one regular stack, in the order of their places, at which instance numbers may go down."""
    orientation = draw(orientations())
    normal = np.cross(orientation[:3], orientation[3:])
    normal /= np.linalg.norm(normal)
    count, distance = draw(st.integers(3, 40)), draw(st.floats(0.3, 10))
    origin = draw(st.tuples(*[st.floats(-900, 900)] * 3))
    spacing = rounded(draw(st.tuples(st.floats(0.1, 3), st.floats(0.1, 3))), 6)
    down = draw(st.booleans())
    return [
        InstanceHeader(
            study_uid="1.2",
            series_uid="1.2.3",
            sop_instance_uid=f"1.2.3.{index + 1}",
            sop_class_uid=sop_class,
            modality="CT" if sop_class == CT else "MR",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            patient=PatientIdentity("P-1", "", None, ""),
            rows=SIZE,
            columns=SIZE // 2,
            position=rounded(origin + index * distance * normal, 6),
            orientation=orientation,
            pixel_spacing=spacing,
            slice_thickness=distance,
            frame_of_reference_uid="1.2.9",
            instance_number=count - index if down else index + 1,
            image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
            referenced_series=(),
        )
        for index in range(count)
    ]


def lies(header: InstanceHeader, row: int, column: int) -> np.ndarray:
    """Return a pixel's place by the standard's own formula (PS3.3, C.7.6.2.1.1, equation C.7.6.2.1-1)."""
    x, y = np.array(header.orientation).reshape(2, 3)
    between_rows, between_columns = header.pixel_spacing or (0.0, 0.0)
    place: np.ndarray = np.array(header.position) + x * between_columns * column + y * between_rows * row
    return place


def check(stacked: Stack, expected: Sequence[InstanceHeader]) -> None:
    """Hold a grid against all its slices' corners."""
    assert {each.sop_instance_uid for each in stacked.slices} == {each.sop_instance_uid for each in expected}
    for index, header in enumerate(stacked.slices):
        for row, column in product((0, SIZE - 1), (0, SIZE // 2 - 1)):
            ours = stacked.geometry.to_patient([index, row, column])
            assert np.abs(ours - lies(header, row, column)).max() <= 1e-4
    assert np.linalg.det(stacked.geometry.axes[::-1]) == pytest.approx(1, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(series(), st.randoms(use_true_random=False))
def test_every_pixel_lies_where_its_header_says(slices: list[InstanceHeader], order: random.Random) -> None:
    """Whatever the direction, the spacing, and the order in which files and numbers come."""
    shuffled = order.sample(slices, len(slices))
    check(stack(primary_series(shuffled)), slices)
    assert judge(shuffled).status == "complete"


@settings(max_examples=20, deadline=None)
@given(series(), st.randoms(use_true_random=False), st.integers(1, 2), st.booleans())
def test_scouts_in_the_series_are_left_out(
    slices: list[InstanceHeader], order: random.Random, count: int, called: bool
) -> None:
    """Localisers by name, and a few slices that lie across the others, whatever they are called."""
    first = slices[0]
    turned = (*np.array(first.orientation)[3:], *np.cross(first.orientation[:3], first.orientation[3:]))
    others = [
        replace(
            first,
            sop_instance_uid=f"1.2.4.{number}",
            orientation=turned,
            image_type=("ORIGINAL", "PRIMARY", "LOCALIZER") if called else first.image_type,
        )
        for number in range(count)
    ]
    mixed = [*slices, *others]
    assert judge(order.sample(mixed, len(mixed))).status == "complete"
    check(stack(primary_series(mixed)), slices)


@settings(max_examples=20, deadline=None)
@given(series(), st.randoms(use_true_random=False), st.sampled_from(["kernel", "echo", "acquisition", "b_value"]))
def test_two_stacks_of_one_series_are_one_volume_each(
    slices: list[InstanceHeader], order: random.Random, mark: str
) -> None:
    """Two kernels, echoes, acquisitions or b-values at the same places never mix."""
    ours = [replace(each, marks=Marks(**{mark: "1"})) for each in slices]
    theirs = [
        replace(
            each,
            sop_instance_uid=f"{each.sop_instance_uid}.5",
            instance_number=500 + number,
            marks=Marks(**{mark: "2"}),
        )
        for number, each in enumerate(slices)
    ]
    mixed = [*ours, *theirs]
    check(stack(primary_series(order.sample(mixed, len(mixed)))), ours)


@settings(max_examples=20, deadline=None)
@given(series(), st.data())
def test_doubled_slices_are_named(slices: list[InstanceHeader], data: st.DataObject) -> None:
    """A copy of a slice under another UID, and nothing that tells it apart, is no second volume."""
    copied = data.draw(st.sampled_from(slices))
    judged = judge([*slices, replace(copied, sop_instance_uid="1.2.5")])
    assert (judged.status, judged.reason) == ("ambiguous", "duplicated-slices")


@settings(max_examples=20, deadline=None)
@given(series(), st.floats(-4e-4, 4e-4))
def test_orientations_that_differ_by_rounding_are_one_stack(slices: list[InstanceHeader], noise: float) -> None:
    """Wherever the cosines lie, half of the slices are not another series."""
    wobbly = [
        replace(each, orientation=(each.orientation[0] + noise * (index % 2), *each.orientation[1:]))
        for index, each in enumerate(slices)
    ]
    assert len(primary_series(wobbly)) == len(slices)


@settings(max_examples=10, deadline=None)
@given(series())
def test_one_slice_alone_is_named(slices: list[InstanceHeader]) -> None:
    """Nothing says how far the next would be."""
    assert judge(slices[:1]).reason == "too-few-slices"
