"""A stored study becomes the volume that was scanned, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from auscult.domain.study import Study, StudyRef
from auscult.imaging.store import ImageStore
from auscult.imaging.volume import load_study
from auscult.platform.errors import DeadLetter, Quarantine, Superseded
from dicom_factory import Person, ct_series, encode, enhanced, structure_set

Load = Callable[[Iterable[Dataset | bytes]], Study]
RAMP = np.arange(4 * 6 * 5, dtype=np.int16).reshape(4, 6, 5) * 20 - 1000


def with_values(stored: np.ndarray, **attributes: object) -> list[Dataset]:
    """Return a series that stores `stored`, `(z, y, x)`, as it is, with some attributes changed."""
    slices = ct_series(stored.shape)
    for dataset, plane in zip(slices, stored, strict=True):
        dataset.PixelData = plane.tobytes()
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
    return slices


def test_hu_and_geometry_are_as_scanned(load: Load) -> None:
    """Voxels, positions and slice order come back, whatever the order of the files."""
    slices = ct_series(spacing=(2.5, 0.7, 0.8), hu=RAMP)
    volume = load(slices[::-1]).volume
    assert np.array_equal(volume.hu, RAMP)
    assert volume.hu.dtype == np.int16
    assert volume.sop_instance_uids == tuple(dataset.SOPInstanceUID for dataset in slices)
    assert volume.geometry.spacing == pytest.approx([2.5, 0.7, 0.8], abs=1e-4)
    assert volume.geometry.to_patient([3, 2, 1]) == pytest.approx([-20 + 0.8, -30 + 1.4, 40 + 7.5], abs=1e-4)


@pytest.mark.parametrize(
    "orientation", [(0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1), (0.8, 0.6, 0, -0.48, 0.64, 0.6), (-1, 0, 0, 0, 1, 0)]
)
def test_any_orientation_is_read(load: Load, orientation: tuple[float, ...]) -> None:
    """Sagittal, coronal, oblique and prone slices lie where they say."""
    slices = ct_series(hu=RAMP, orientation=orientation)
    volume = load(slices).volume
    assert np.array_equal(volume.hu, RAMP)
    for index, dataset in enumerate(slices):
        assert volume.geometry.to_patient([index, 0, 0]) == pytest.approx(
            [float(value) for value in dataset.ImagePositionPatient], abs=1e-4
        )
    assert np.linalg.det(volume.geometry.axes[::-1]) == pytest.approx(1)


def test_patient_age_and_date_come_along(load: Load) -> None:
    """Without a UTC offset the acquisition is a date."""
    study = load(ct_series(hu=RAMP))
    assert study.identity.patient_id == "P-1"
    assert study.age_at_study == 65
    assert study.acquired == date(2026, 1, 31)
    assert not isinstance(study.acquired, datetime)
    assert study.regions == ()


@pytest.mark.parametrize(
    ("attributes", "acquired"),
    [
        ({"TimezoneOffsetFromUTC": "+0100"}, datetime(2026, 1, 31, 11, 1, 30, tzinfo=UTC)),
        (
            {"AcquisitionDateTime": "20260131080000.25-0500"},
            datetime(2026, 1, 31, 8, tzinfo=timezone(timedelta(hours=-5))),
        ),
        ({"AcquisitionDate": "", "SeriesDate": "99999999"}, date(2026, 1, 31)),
        ({"AcquisitionDate": "", "SeriesDate": "", "StudyDate": ""}, None),
    ],
)
def test_the_time_of_acquisition_is_no_better_than_dicom_says(
    load: Load, attributes: dict[str, str], acquired: datetime | date | None
) -> None:
    """An offset makes an instant; an impossible date is passed over; none is none."""
    slices = ct_series(hu=RAMP)
    for dataset in slices:
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
    assert load(slices).acquired == acquired


@pytest.mark.parametrize(("text", "years"), [("006M", 0.5), ("052W", 0.9966), ("365D", 0.9993), ("old", None)])
def test_ages_are_in_years(load: Load, text: str, years: float | None) -> None:
    """Months, weeks and days are converted."""
    slices = ct_series(hu=RAMP)
    for dataset in slices:
        dataset.PatientAge = text.ljust(4)
    assert load(slices).age_at_study == (None if years is None else pytest.approx(years, abs=1e-4))


def test_signed_values_are_signed(load: Load) -> None:
    """Two's complement in 16 bits, without an intercept."""
    slices = with_values(RAMP, PixelRepresentation=1, BitsStored=16, HighBit=15, RescaleIntercept=0)
    assert np.array_equal(load(slices).volume.hu, RAMP)


def test_signed_twelve_bits_extend_their_sign(load: Load) -> None:
    """Bits above BitsStored are not part of the value."""
    stored = (RAMP.astype(np.uint16) & 0x0FFF) | 0x5000
    slices = with_values(stored, PixelRepresentation=1, RescaleIntercept=0)
    assert np.array_equal(load(slices).volume.hu, RAMP)


def test_overlays_above_the_stored_bits_are_cleared(load: Load) -> None:
    """Unsigned values with junk in their spare bits are read without it."""
    slices = with_values((RAMP + 1024).astype(np.uint16) | 0xA000)
    assert np.array_equal(load(slices).volume.hu, RAMP)


def test_any_slope_and_intercept_are_applied(load: Load) -> None:
    """Values are rounded to whole HU, and clipped where int16 ends."""
    stored = np.full((4, 6, 5), 40_000, np.uint16)
    stored[0, 0, :2] = 0, 3
    slices = with_values(stored, BitsStored=16, HighBit=15, RescaleSlope=2.5, RescaleIntercept=-1000.2)
    hu = load(slices).volume.hu
    assert hu[0, 0].tolist() == [-1000, -993, 32767, 32767, 32767]


def test_unsigned_sixteen_bits_do_not_wrap_around(load: Load) -> None:
    """Values above int16 with slope 1 are clipped, not negative."""
    stored = np.full((4, 6, 5), 65_000, np.uint16)
    assert (load(with_values(stored, BitsStored=16, HighBit=15)).volume.hu == 32767).all()


def test_padding_is_air(load: Load) -> None:
    """Pixels outside the field of view are -1024 HU, whatever they are stored as."""
    stored = RAMP.copy()
    stored[:, 0, 0] = -2000
    slices = with_values(stored, PixelRepresentation=1, BitsStored=16, HighBit=15, RescaleIntercept=0)
    for dataset in slices:
        dataset.add_new("PixelPaddingValue", "SS", -2000)
    hu = load(slices).volume.hu
    assert (hu[:, 0, 0] == -1024).all()
    assert np.array_equal(hu[:, 1:], RAMP[:, 1:])


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_slices_are_decoded(load: Load, syntax: str) -> None:
    """Lossless compression changes nothing."""
    slices = ct_series(hu=RAMP)
    for dataset in slices:
        dataset.compress(syntax, generate_instance_uid=False)
    assert np.array_equal(load(slices).volume.hu, RAMP)


def test_a_slice_that_no_decoder_reads_is_a_dead_letter(load: Load) -> None:
    """The message says what the sender can do."""
    slices = ct_series(hu=RAMP)
    for dataset in slices:
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    with pytest.raises(DeadLetter, match="Explicit VR Little Endian") as caught:
        load(slices)
    assert caught.value.reason == "undecodable-transfer-syntax"


@pytest.mark.parametrize(
    ("reason", "attributes"),
    [
        ("no-hounsfield", {"RescaleType": "US"}),
        ("no-hounsfield", {"RescaleSlope": None}),
        ("unsupported-pixels", {"PhotometricInterpretation": "MONOCHROME1"}),
        ("unsupported-pixels", {"HighBit": 13}),
        ("mixed-geometry", {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}),
        ("undecodable-attribute", {"HighBit": [11, 11]}),
    ],
)
def test_what_makes_no_ct_volume_is_named(load: Load, reason: str, attributes: dict[str, object]) -> None:
    """Each has its reason, and none a traceback."""
    slices = ct_series(hu=RAMP)
    for dataset in slices:
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
    with pytest.raises(DeadLetter) as caught:
        load(slices)
    assert caught.value.reason == reason


def test_two_patients_are_quarantined(load: Load) -> None:
    """A structure set of another patient spoils the study."""
    slices = ct_series(hu=RAMP)
    with pytest.raises(Quarantine, match="two-patients"):
        load([*slices, structure_set(slices, {}, patient=Person(patient_id="P-2"))])


def test_a_study_without_ct_is_a_dead_letter(load: Load) -> None:
    """A structure set alone holds nothing to compute."""
    with pytest.raises(DeadLetter, match="no-image-series"):
        load([structure_set(ct_series(hu=RAMP), {})])


def test_a_study_that_changed_waits_for_its_newer_event(load: Load, store: ImageStore) -> None:
    """An event about other contents than the store's is not computed; nor is one about nothing."""
    ref = load(ct_series(hu=RAMP)).ref
    with pytest.raises(Superseded, match="study-changed"):
        load_study(StudyRef("site", ref.study_uid, "0" * 64), store)
    for changed, reason in (
        (StudyRef("other", ref.study_uid, ref.digest), "study-missing"),
        (StudyRef("site", "../..", ref.digest), "invalid-uid"),
    ):
        with pytest.raises(DeadLetter) as caught:
            load_study(changed, store)
        assert caught.value.reason == reason


def test_a_file_that_was_damaged_on_the_disk_is_a_dead_letter(load: Load, store: ImageStore) -> None:
    """The gate is kept on the way out, too."""
    ref = load(ct_series(hu=RAMP)).ref
    path: Path = store.instances("site", ref.study_uid)[0]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DeadLetter, match="truncated: in the image store"):
        load_study(ref, store)


def test_localisers_are_left_out(load: Load) -> None:
    """A projection in the same series is no slice."""
    slices = ct_series(hu=RAMP)
    first = slices[0]
    localiser = ct_series(
        (1, 6, 5),
        study_uid=first.StudyInstanceUID,
        series_uid=first.SeriesInstanceUID,
        image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"),
    )
    assert load([encode(dataset) for dataset in [*slices, *localiser]]).volume.hu.shape == (4, 6, 5)


def test_an_enhanced_image_is_the_same_volume(load: Load) -> None:
    """Frames are slices, placed and rescaled by their functional groups, compressed ones too."""
    slices = ct_series(spacing=(2.5, 0.7, 0.8), hu=RAMP)
    single = load(slices).volume
    for syntax in (None, RLELossless):
        whole = enhanced(slices)
        whole.StudyInstanceUID = generate_uid()
        if syntax:
            whole.compress(syntax, generate_instance_uid=False)
        volume = load([whole]).volume
        assert np.array_equal(volume.hu, RAMP)
        assert volume.geometry.matches(single.geometry, tolerance=1e-4)


def test_stacks_of_one_series_are_told_apart(load: Load) -> None:
    """Two kernels, two phases, a stack in another plane: the larger, or the first, is computed."""
    for change in ({"ConvolutionKernel": "B70"}, {"AcquisitionNumber": 2}, {"TemporalPositionIdentifier": 2}):
        slices, others = ct_series(hu=RAMP), ct_series(hu=RAMP[:, ::-1])
        for index, other in enumerate(others):
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
                setattr(other, keyword, getattr(slices[0], keyword))
            other.InstanceNumber = 100 + index
            for keyword, value in change.items():
                setattr(other, keyword, value)
        assert np.array_equal(load([*slices, *others]).volume.hu, RAMP)


def test_text_in_the_pixels_is_not_measured(load: Load) -> None:
    """It would count as tissue."""
    slices = ct_series(hu=RAMP)
    slices[1].BurnedInAnnotation = "YES"
    with pytest.raises(DeadLetter, match="burned-in-annotation"):
        load(slices)
