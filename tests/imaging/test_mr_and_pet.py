"""MR and PET become volumes in their own units: stacks told apart as a reader would, SUVs as QIBA computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, RLELossless, generate_uid

from auscult.domain.study import Study
from auscult.domain.volume import ARBITRARY, BECQUERELS, SUV_BW, NotHounsfieldError
from auscult.imaging.filling import Reading
from auscult.imaging.store import ImageStore
from auscult.imaging.volume import load_study
from auscult.platform.errors import DeadLetter
from dicom_factory import ct_series, enhanced, mr_series, pet_series

Load = Callable[[Iterable[Dataset | bytes]], Study]
HALF_LIFE = 6586.2
HOUR = 70_000 / (370e6 * 2 ** (-3600 / HALF_LIFE))
"""g/ml per Bq/ml: 70 kg, 370 MBq an hour before the scan."""


def stored(slices: list[Dataset]) -> np.ndarray:
    """Return the stored values, `(z, y, x)`."""
    return np.array([np.frombuffer(each.PixelData, np.uint16).reshape(each.Rows, each.Columns) for each in slices])


def sorted_in(slices: list[Dataset], others: list[Dataset], first: int = 100) -> list[Dataset]:
    """Return both as one series."""
    for index, other in enumerate(others):
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            setattr(other, keyword, getattr(slices[0], keyword))
        other.InstanceNumber = first + index
    return [*slices, *others]


def test_mr_keeps_its_own_numbers(load: Load) -> None:
    """Without a rescale the stored values count; with one (as Philips has) the rescaled; nothing is called HU."""
    slices = mr_series()
    study = load(slices)
    assert (study.modality, study.volume.unit, study.volume.voxels.dtype) == ("MR", ARBITRARY, np.float32)
    assert np.array_equal(study.volume.voxels, stored(slices))
    with pytest.raises(NotHounsfieldError, match="not in Hounsfield units"):
        _ = study.volume.hu
    scaled = mr_series(RescaleSlope=2.5, RescaleIntercept=-10)
    assert np.allclose(load(scaled).volume.voxels, stored(scaled) * 2.5 - 10)


@pytest.mark.parametrize(
    "change",
    [
        {"EchoNumbers": 2, "EchoTime": 80},
        {"EchoTime": 80},
        {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]},
        {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
        {"DiffusionBValue": 800.0},
        {"TemporalPositionIdentifier": 2},
        {"TriggerTime": 400},
        {"InversionTime": 900},
        {"AcquisitionNumber": 2},
    ],
)
def test_stacks_of_an_mr_series_are_told_apart(load: Load, change: dict[str, object]) -> None:
    """Echoes, phase images, planes, b-values, time points, cardiac phases: one volume has one of each."""
    slices = mr_series((5, 6, 5))
    others = mr_series((4, 6, 5), **change)
    assert np.array_equal(load(sorted_in(slices, others)).volume.voxels, stored(slices))


@pytest.mark.parametrize(
    ("place", "vr", "values"),
    [
        (("SIEMENS MR HEADER", 0x19, 0x0C), "IS", (0, 800)),
        (("GEMS_PARM_01", 0x43, 0x39), "IS", ([1_000_000_000, 8, 0, 0], [1_000_000_800, 8, 0, 0])),
        (("Philips Imaging DD 001", 0x2001, 0x03), "FL", (0.0, 800.0)),
    ],
)
def test_b_values_may_be_private(
    load: Load, place: tuple[str, int, int], vr: str, values: tuple[object, object]
) -> None:
    """The three large manufacturers' older scanners have them so, in whichever block is free."""
    creator, group, element = place
    stacks = mr_series((5, 6, 5)), mr_series((4, 6, 5))
    for slices, value in zip(stacks, values, strict=True):
        for dataset in slices:
            dataset.private_block(group, "SOMEBODY ELSE", create=True).add_new(element, "LO", "other")
            dataset.private_block(group, creator, create=True).add_new(element, vr, value)
    assert np.array_equal(load(sorted_in(*stacks)).volume.voxels, stored(stacks[0]))


def test_two_marks_may_be_needed_to_tell_stacks_apart(load: Load) -> None:
    """Two b-values with two averages each are four volumes; the first is computed."""
    parts = [
        mr_series((4, 6, 5), DiffusionBValue=b_value, AcquisitionNumber=number)
        for b_value in (0.0, 800.0)
        for number in (1, 2)
    ]
    whole = parts[0]
    for count, part in enumerate(parts[1:], start=1):
        whole = sorted_in(whole, part, 100 * count)
    assert np.array_equal(load(whole).volume.voxels, stored(parts[0]))


def test_an_enhanced_mr_is_the_same_volume(load: Load) -> None:
    """Its frames are slices, with the rescale of their functional groups; two echoes of one object are two stacks."""
    slices = mr_series()
    whole = enhanced(ct_series((4, 6, 5)))
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    whole.Modality = "MR"
    assert np.array_equal(load([whole]).volume.voxels, stored(slices) - 1024.0)
    groups = list(whole.PerFrameFunctionalGroupsSequence)
    whole.PerFrameFunctionalGroupsSequence = []
    for echo_time in (80.0, 10.0):
        for group in groups:
            echo, frame = Dataset(), deepcopy(group)
            echo.EffectiveEchoTime = echo_time
            frame.MREchoSequence = [echo]
            whole.PerFrameFunctionalGroupsSequence.append(frame)
    first = whole.PixelData
    whole.NumberOfFrames, whole.PixelData = 8, first + bytes(len(first))
    whole.StudyInstanceUID = generate_uid()
    whole.SOPInstanceUID = whole.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    assert np.array_equal(load([whole]).volume.voxels, stored(slices) - 1024.0)


@pytest.mark.parametrize(
    ("injected", "changed", "factor"),
    [
        ({}, {}, HOUR),
        ({}, {"DecayCorrection": "ADMIN"}, 70_000 / 370e6),
        ({"RadiopharmaceuticalStartDateTime": "20260131110000.000000"}, {}, HOUR),
        ({"RadiopharmaceuticalStartTime": "233000"}, {"SeriesTime": "003000", "AcquisitionTime": "003000"}, HOUR),
        ({}, {"SeriesTime": "150000"}, HOUR),  # made later: the time of acquisition counts
        ({}, {"Units": "GML"}, 1.0),
        (
            {},
            {
                "SeriesTime": "150000",
                "AcquisitionTime": "121000",
                "FrameReferenceTime": 600_000 + 59_937.0,
                "ActualFrameDuration": 120_000,
            },
            HOUR,
        ),  # back from the bed position's frame to the start of the scan
        ({"RadiopharmaceuticalStartDateTime": "20260131100000-0000"}, {"TimezoneOffsetFromUTC": "+0100"}, HOUR),
    ],
)
def test_pet_is_in_suv_by_weight(
    load: Load, injected: dict[str, object], changed: dict[str, object], factor: float
) -> None:
    """Each slice has its own slope; the dose is what is left of it when the decay was corrected to."""
    slices = pet_series(injected=injected, **changed)
    study = load(slices)
    slopes = np.array([0.5, 1, 1.5, 2])[:, None, None]
    assert (study.modality, study.volume.unit) == ("PT", SUV_BW)
    assert np.allclose(study.volume.voxels, stored(slices) * slopes * factor, rtol=2e-5)


def test_counts_of_philips_have_private_factors(load: Load) -> None:
    """One gives SUVbw at once, the other Bq/ml; counts without either are refused by name."""
    for element, factor in ((0x00, 0.25), (0x09, 2 * HOUR)):
        slices = pet_series(Units="CNTS")
        for dataset in slices:
            block = dataset.private_block(0x7053, "Philips PET Private Group", create=True)
            block.add_new(element, "DS", "0.25" if element == 0 else "2")
        slopes = np.array([0.5, 1, 1.5, 2])[:, None, None]
        assert np.allclose(load(slices).volume.voxels, stored(slices) * slopes * factor, rtol=1e-5)


def test_pet_stays_in_becquerels_where_that_is_declared(load: Load, store: ImageStore) -> None:
    """What an SUV needs need not be there then."""
    slices = pet_series(injected={"RadionuclideTotalDose": None}, PatientWeight=None)
    with pytest.raises(DeadLetter) as caught:
        load(slices)
    assert caught.value.reason == "suv-attributes"
    study = load(pet_series())
    volume = load_study(study.ref, store, "PT", Reading(becquerels=True)).volume
    assert volume.unit == BECQUERELS
    assert np.allclose(volume.voxels * HOUR, study.volume.voxels)


@pytest.mark.parametrize(
    ("reason", "injected", "changed"),
    [
        ("pet-dynamic", {}, {"SeriesType": ["DYNAMIC", "IMAGE"]}),
        ("pet-gated", {}, {"SeriesType": ["GATED", "IMAGE"]}),
        ("pet-units", {}, {"Units": "CNTS"}),
        ("pet-units", {}, {"Units": "GML", "SUVType": "LBM"}),
        ("pet-units", {}, {"RescaleSlope": None}),
        ("pet-uncorrected", {}, {"CorrectedImage": ["DECY"]}),
        ("suv-decay-correction", {}, {"DecayCorrection": "NONE"}),
        ("suv-attributes", {}, {"PatientWeight": 0}),
        ("suv-attributes", {"RadionuclideHalfLife": None}, {}),
        ("suv-attributes", {"RadionuclideTotalDose": 370.0}, {}),
        ("suv-attributes", {"RadiopharmaceuticalStartTime": None}, {}),
        ("suv-times", {"RadiopharmaceuticalStartDateTime": "20250131110000"}, {}),
        ("suv-times", {"RadiopharmaceuticalStartDateTime": "20260131130000"}, {}),
        ("unsupported-pixels", {}, {"PhotometricInterpretation": "MONOCHROME1"}),
    ],
)
def test_pet_that_makes_no_suv_is_named(
    load: Load, reason: str, injected: dict[str, object], changed: dict[str, object]
) -> None:
    """Nothing is assumed in the place of what is missing or contradicts itself."""
    with pytest.raises(DeadLetter) as caught:
        load(pet_series(injected=injected, **changed))
    assert caught.value.reason == reason


def test_a_study_of_ct_and_pet_is_read_as_it_is_asked_for(load: Load, store: ImageStore) -> None:
    """CT by default; PET where a pathway reads it; MR by name not."""
    ct = ct_series((4, 6, 5))
    pet = pet_series(StudyInstanceUID=ct[0].StudyInstanceUID)
    for dataset in pet:
        dataset.compress(RLELossless, generate_instance_uid=False)
    study = load([*pet, *ct])
    assert study.modality == "CT"
    assert load_study(study.ref, store, "PT").volume.unit == SUV_BW
    with pytest.raises(DeadLetter, match="no-image-series: the study has no MR slices"):
        load_study(study.ref, store, "MR")
