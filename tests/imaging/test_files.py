"""Images and masks from files: one grid, whatever the format, and a clear refusal where it is not."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.uid import MRImageStorage, SecondaryCaptureImageStorage

from auscult.imaging.files import Selection, read_pair
from auscult.imaging.grid import aligned, placed
from auscult.platform.errors import AuscultError, TellClinician
from dicom_factory import ct_series, encode, pet_series, structure_set

from .test_seg import segmentation

SHAPE = (6, 5, 4)
VOXELS = np.arange(120, dtype=np.int16).reshape(SHAPE)  # (x, y, z), as files have it
MASK = (VOXELS % 7 == 0).astype(np.uint8)
COS, SIN = np.cos(0.3), np.sin(0.3)
OBLIQUE = np.array([[COS, -SIN, 0], [SIN, COS, 0], [0, 0, 1]]) @ np.diag([0.5, 0.8, 2.0])
LPS = np.vstack([np.column_stack([OBLIQUE, [-10.0, 20.0, 30.0]]), [0, 0, 0, 1]])
RAS = np.diag([-1, -1, 1, 1]) @ LPS


def nifti(path: Path, voxels: Any = VOXELS, affine: Any = RAS) -> Path:
    """Write a NIfTI file."""
    nibabel.save(nibabel.Nifti1Image(voxels, affine, dtype=voxels.dtype), path)
    return path


def nrrd_file(path: Path, voxels: Any = VOXELS, affine: Any = LPS, **header: Any) -> Path:
    """Write an NRRD file."""
    said = {"space": "left-posterior-superior", "space directions": affine[:3, :3].T, "space origin": affine[:3, 3]}
    nrrd.write(str(path), voxels, {**said, **header}, detached_header=path.suffix == ".nhdr")
    return path


def refusal(image: Path, mask: Path, **selection: Any) -> str:
    """Return the reason and the words with which a pair is refused."""
    with pytest.raises(AuscultError) as error:
        read_pair(image, mask, Selection(**selection))
    return str(error.value)


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """Return a mask that fits VOXELS."""
    return nifti(tmp_path / "mask.nii.gz", MASK)


WRITERS: dict[str, Callable[[Path], Path]] = {
    "nii": lambda p: nifti(p / "i.nii"),
    "nii.gz": lambda p: nifti(p / "i.nii.gz"),
    "big-endian": lambda p: _big_endian(p / "i.nii"),
    "one-frame": lambda p: nifti(p / "i.nii", VOXELS[..., None]),
    "hdr-img": lambda p: _pair_of_files(p / "i.img"),
    "nrrd": lambda p: nrrd_file(p / "i.nrrd"),
    "nhdr": lambda p: nrrd_file(p / "i.nhdr"),
    "nrrd-ascii": lambda p: nrrd_file(p / "i.nrrd", encoding="ascii"),
    "nrrd-ras": lambda p: nrrd_file(p / "i.nrrd", affine=RAS, space="right-anterior-superior"),
    "nrrd-short": lambda p: nrrd_file(p / "i.nrrd", affine=RAS, space="RAS"),
    "nrrd-big-endian": lambda p: nrrd_file(p / "i.nrrd", VOXELS.astype(">i2"), endian="big"),
    "nrrd-one-frame": lambda p: nrrd_file(
        p / "i.nrrd",
        VOXELS[None],
        **{"space directions": np.vstack([np.full(3, np.nan), LPS[:3, :3].T]), "kinds": ["list", *["domain"] * 3]},
    ),
}


def _big_endian(path: Path) -> Path:
    image = nibabel.Nifti1Image(VOXELS, RAS, nibabel.Nifti1Header(endianness=">"))
    image.header.set_data_dtype(">i2")
    nibabel.save(image, path)
    return path


def _pair_of_files(path: Path) -> Path:
    nibabel.save(nibabel.Nifti1Pair(VOXELS, RAS), path)
    return path


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_image(kind: str, tmp_path: Path, mask: Path) -> None:
    """Axes, spacing and place are the same, so that a NIfTI mask fits an oblique image of each."""
    pair = read_pair(WRITERS[kind](tmp_path), mask)
    assert np.array_equal(pair.image, VOXELS.transpose(2, 1, 0))
    assert np.array_equal(pair.mask, MASK.transpose(2, 1, 0) > 0)
    assert pair.spacing == pytest.approx([2.0, 0.8, 0.5])


def test_slope_and_intercept_are_applied(tmp_path: Path, mask: Path) -> None:
    """Stored values are not the image's."""
    path = nifti(tmp_path / "i.nii")
    stored = bytearray(path.read_bytes())
    stored[112:120] = np.array([0.5, -10], "<f4").tobytes()  # scl_slope, scl_inter (nifti1.h)
    path.write_bytes(stored)
    assert np.array_equal(read_pair(path, mask).image, VOXELS.transpose(2, 1, 0) * 0.5 - 10)


@pytest.mark.parametrize("codes", [(0, 1), (1, 0), (1, 1)])
def test_either_orientation_of_nifti_counts(codes: tuple[int, int], tmp_path: Path, mask: Path) -> None:
    """An sform, else a qform."""
    image = nibabel.Nifti1Image(VOXELS, None)
    image.set_sform(RAS if codes[0] else np.eye(4), codes[0])
    image.set_qform(RAS if codes[1] else np.eye(4), codes[1])
    nibabel.save(image, tmp_path / "i.nii")
    assert read_pair(tmp_path / "i.nii", mask).spacing == pytest.approx([2.0, 0.8, 0.5])


@settings(max_examples=25, deadline=None)
@given(order=st.permutations([0, 1, 2]), flips=st.tuples(*[st.booleans()] * 3))
def test_a_mask_kept_in_another_order_is_turned(order: list[int], flips: tuple[bool, bool, bool]) -> None:
    """Whatever axis comes first, and whichever way it runs: the voxels are the same, nothing is resampled."""
    turned, affine = MASK.transpose(order), np.column_stack([LPS[:3, order], LPS[:3, 3]])
    for axis, flip in enumerate(flips):
        if flip:
            turned = np.flip(turned, axis)
            affine[:, 3] += affine[:, axis] * (turned.shape[axis] - 1)
            affine[:, axis] *= -1
    image = placed(VOXELS, LPS[:3], "image")
    assert np.array_equal(aligned(placed(turned, affine, "mask"), image), MASK.transpose(2, 1, 0))


def _changed(**parts: Any) -> Any:
    affine = RAS.copy()
    for name, value in parts.items():
        if name == "origin":
            affine[:3, 3] += value
        elif name == "spacing":
            affine[:3, 0] *= value
        else:
            affine[:3, :3] = value @ affine[:3, :3]
    return affine


def test_what_differs_is_said(tmp_path: Path) -> None:
    """Shape, spacing, direction or origin, with both values; less than a hundredth of a voxel is no difference."""
    image = nifti(tmp_path / "i.nii")
    turn = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]])
    for name, said in (("origin", 0.1), ("spacing", 1.02), ("direction", turn)):
        text = refusal(image, nifti(tmp_path / "m.nii", MASK, _changed(**{name: said})))
        assert text.startswith("mask-geometry")
        assert f"; {name}" in text
    assert "shape (z, y, x): image (4, 5, 6), mask (3, 5, 6)" in refusal(
        image, nifti(tmp_path / "m.nii", MASK[..., 1:])
    )
    read_pair(image, nifti(tmp_path / "m.nii", MASK, _changed(origin=0.001)))


def test_labels_are_chosen_or_clear(tmp_path: Path) -> None:
    """One label needs no choice; of several one is named; what is not there, or half there, is refused."""
    image = nifti(tmp_path / "i.nii")
    labels = nifti(tmp_path / "m.nii", MASK * np.where(VOXELS > 60, 3, 2).astype(np.uint8))
    assert "choose one by --label: 2, 3" in refusal(image, labels)
    assert "its labels: 2, 3" in refusal(image, labels, label=1)
    assert read_pair(image, labels, Selection(label=3)).mask.sum() == ((VOXELS % 7 == 0) & (VOXELS > 60)).sum()
    assert refusal(image, nifti(tmp_path / "e.nii", MASK * 0)).startswith("region-empty")
    assert read_pair(image, nifti(tmp_path / "f.nii", MASK * 5.0)).mask.sum() == MASK.sum()
    assert refusal(image, nifti(tmp_path / "f.nii", MASK * 0.5)).startswith("mask-fractional")
    assert refusal(image, nifti(tmp_path / "n.nii", np.where(MASK, np.nan, 0.0))).startswith("mask-fractional")


def test_a_segmentation_of_slicer_is_cropped_and_named(tmp_path: Path) -> None:
    """`.seg.nrrd` covers a part of the grid and names its labels."""
    image = nrrd_file(tmp_path / "i.nrrd")
    part = LPS.copy()
    part[:3, 3] += LPS[:3, :3] @ [1, 2, 1]
    names = {"Segment0_Name": "GTV", "Segment0_LabelValue": "4", "Segment1_Name": "heart", "Segment1_LabelValue": "1"}
    cropped = np.zeros((3, 2, 2), np.uint8)
    cropped[0, 0, 0], cropped[2, 1, 1] = 4, 1
    mask = nrrd_file(tmp_path / "s.seg.nrrd", cropped, part, **names)
    inside = read_pair(image, mask, Selection(segment="GTV")).mask
    assert np.argwhere(inside).tolist() == [[1, 2, 1]]
    assert "its names: GTV, heart" in refusal(image, mask, segment="lung")
    assert "1 (heart), 4 (GTV)" in refusal(image, mask)
    part[:3, 3] += LPS[:3, :3] @ [3, 0, 0]
    assert "outside the image" in refusal(image, nrrd_file(tmp_path / "o.seg.nrrd", cropped, part, **names))


def test_what_is_no_image_is_named(tmp_path: Path, mask: Path) -> None:
    """Each with a reason of its own, and nothing else is raised."""
    text = tmp_path / "text.nii"
    text.write_text("no image")
    other = tmp_path / "image.png"
    other.write_text("no image")
    cut = tmp_path / "cut.nii.gz"
    noise = np.random.default_rng(0).integers(0, 9999, (40, 40, 40)).astype(np.int16)
    cut.write_bytes(nifti(tmp_path / "whole.nii.gz", noise).read_bytes()[:2000])
    short = tmp_path / "short.nii"
    short.write_bytes(nifti(tmp_path / "whole.nii").read_bytes()[:400])
    lone = nrrd_file(tmp_path / "lone.nhdr")
    next(path for path in tmp_path.glob("lone.raw*")).unlink()
    colours = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    sheared = RAS.copy()
    sheared[:3, 1] += 0.2 * sheared[:3, 0]
    flat = nifti(tmp_path / "flat.nii")
    header = bytearray(flat.read_bytes())
    header[80:84], header[252:256] = b"\0" * 4, b"\0" * 4  # pixdim[1], both orientations' codes (nifti1.h)
    flat.write_bytes(header)
    (tmp_path / "empty").mkdir()
    bad = {
        "path-missing": tmp_path / "none.nii",
        "not-an-image": other,
        "image-unreadable": text,
        "image-not-scalar": nifti(tmp_path / "rgb.nii", colours),
        "image-not-3d": nifti(tmp_path / "4d.nii", np.zeros((*SHAPE, 2), np.int16)),
        "image-sheared": nrrd_file(tmp_path / "sheared.nrrd", affine=sheared),
        "spacing-invalid": flat,
        "space-unknown": nrrd_file(tmp_path / "scanner.nrrd", space="scanner-xyz"),
        "no-dicom-series": tmp_path / "empty",
    }
    for reason, path in bad.items():
        assert refusal(path, mask).startswith(reason), path
    for path in (cut, short, lone):
        assert refusal(path, mask).startswith("image-unreadable"), path
    zeros = nrrd_file(tmp_path / "zero.nrrd", affine=LPS * [0, 1, 1, 1])
    assert refusal(zeros, mask).startswith("spacing-invalid")
    with gzip.open(tmp_path / "noise.nii.gz", "wb") as file:
        file.write(noise.tobytes()[:5000])
    assert refusal(tmp_path / "noise.nii.gz", mask).startswith("image-unreadable")


def test_a_dicom_series_and_what_was_drawn_on_it(tmp_path: Path) -> None:
    """ROIs are chosen by name or number; an RTSTRUCT of another series, or on no series, is refused."""
    slices = ct_series()
    for number, each in enumerate(slices):
        (tmp_path / "ct").mkdir(exist_ok=True)
        (tmp_path / "ct" / f"{number}.dcm").write_bytes(encode(each))
    x, y, z = slices[3].ImagePositionPatient
    square = np.array([[x + 2, y + 2, z], [x + 6, y + 2, z], [x + 6, y + 5, z], [x + 2, y + 5, z]], float)
    mask = tmp_path / "rt.dcm"
    mask.write_bytes(
        encode(structure_set(slices, {"GTV": [square], "lung": [square + 3 * np.eye(3)[0]], "empty": []}))
    )
    ct = tmp_path / "ct"
    assert "several segments; choose one by --segment: 1 (GTV), 2 (lung), 3 (empty)" in refusal(ct, mask)
    assert "no segment of that name" in refusal(ct, mask, segment="heart")
    assert refusal(ct, mask, segment="empty").startswith("segment-empty")
    named, numbered = (read_pair(ct, mask, Selection(segment=each)) for each in ("GTV", "1"))
    assert named.mask.any()
    assert np.array_equal(named.mask, numbered.mask)
    assert (named.unit, list(named.spacing)) == ("[hnsf'U]", [2.0, 1.0, 1.0])
    assert refusal(nifti(tmp_path / "i.nii"), mask, segment="GTV").startswith("mask-needs-dicom")
    mask.write_bytes(encode(structure_set(ct_series(), {"GTV": [square]})))
    assert refusal(ct, mask).startswith("rtstruct-other-series")
    assert refusal(ct, ct / "0.dcm").startswith("mask-unreadable")


def test_two_series_in_a_folder_are_not_guessed(tmp_path: Path) -> None:
    """They are listed by number; one slice names its own; slices of two frames of reference are no series."""
    for series in (1, 2):
        for number, each in enumerate(ct_series(shape=(3 + series, 4, 4))):
            each.SeriesNumber = series
            (tmp_path / f"{series}-{number}.dcm").write_bytes(encode(each))
    mask = nifti(tmp_path / "m.nii")
    assert "there are 1 (CT, 4 slices), 2 (CT, 5 slices)" in refusal(tmp_path, mask)
    assert "shape (z, y, x): image (5, 4, 4)" in refusal(tmp_path, mask, series="2", label=1)
    assert "shape (z, y, x): image (4, 4, 4)" in refusal(tmp_path / "1-0.dcm", mask, label=1)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for number, each in enumerate(ct_series(shape=(4, 4, 4))):
        if number == 2:
            each.FrameOfReferenceUID = "1.2.3"
        (mixed / f"{number}.dcm").write_bytes(encode(each))
    assert refusal(mixed, mask).startswith("mixed-geometry")


def outlined(folder: Path, slices: list[Dataset], name: str = "rt") -> Path:
    """Write a series into a folder, and a structure set of one small square on its third slice; return the latter."""
    for number, each in enumerate(slices):
        (folder / f"{slices[0].SeriesInstanceUID}.{number}.dcm").write_bytes(encode(each))
    x, y, z = slices[2].ImagePositionPatient
    square = np.array([[x, y, z], [x + 2, y, z], [x + 2, y + 2, z], [x, y + 2, z]], float)
    mask = folder / name
    mask.write_bytes(encode(structure_set(slices, {"GTV": [square]})))
    return mask


@pytest.mark.parametrize(("modality", "sop_class"), [("MR", MRImageStorage), ("OT", SecondaryCaptureImageStorage)])
def test_other_modalities_have_their_rescaled_values(tmp_path: Path, modality: str, sop_class: str) -> None:
    """A series of MR, or of anything that has places, is in what its slope says, not in HU."""
    slices = ct_series(shape=(4, 4, 4))
    for number, each in enumerate(slices):
        each.SOPClassUID = each.file_meta.MediaStorageSOPClassUID = sop_class
        each.Modality, each.RescaleSlope, each.RescaleIntercept = modality, 0.5 + number, 0
    stored = np.frombuffer(slices[2].PixelData, "<u2").reshape(4, 4)
    pair = read_pair(tmp_path, outlined(tmp_path, slices))
    assert pair.unit == "1"
    assert pair.image[2] == pytest.approx(stored * 2.5)


def test_of_ct_and_pet_the_one_that_was_drawn_on_is_read(tmp_path: Path) -> None:
    """In SUVbw, or in Bq/ml where that is asked for."""
    ct = ct_series((4, 6, 5))
    outlined(tmp_path, ct, "rt-ct")
    mask = outlined(tmp_path, pet_series(StudyInstanceUID=ct[0].StudyInstanceUID))
    in_suv, in_becquerels = (read_pair(tmp_path, mask, Selection(becquerels=each)) for each in (False, True))
    assert (in_suv.unit, in_becquerels.unit) == ("{SUVbw}g/ml", "Bq/ml")
    assert in_becquerels.image.max() == pytest.approx(in_suv.image.max() * 370e6 * 2 ** (-3600 / 6586.2) / 70_000)


def test_of_several_stacks_the_one_that_was_drawn_on_is_read(tmp_path: Path) -> None:
    """Two kernels in a series: an RTSTRUCT that names its slices chooses; one that names none leaves it open."""
    slices = ct_series((4, 6, 5))
    others = ct_series((4, 6, 5), series_uid=slices[0].SeriesInstanceUID, study_uid=slices[0].StudyInstanceUID)
    for number, each in enumerate(others):
        each.ConvolutionKernel, each.FrameOfReferenceUID = "B70", slices[0].FrameOfReferenceUID
        (tmp_path / f"{number}.dcm").write_bytes(encode(each))
    mask = outlined(tmp_path, slices)
    with pytest.raises(TellClinician, match="several-stacks"):
        read_pair(tmp_path, mask)
    drawn = dcmread(mask)
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = slices[2].SOPClassUID, slices[2].SOPInstanceUID
    drawn.ROIContourSequence[0].ContourSequence[0].ContourImageSequence = [image]
    drawn.save_as(mask)
    pair = read_pair(tmp_path, mask)
    assert np.array_equal(pair.image[0] + 1024, np.frombuffer(slices[0].PixelData, "<u2").reshape(6, 5))


def test_a_segment_is_chosen_by_name_or_number(tmp_path: Path) -> None:
    """Of a SEG on the series; one without a voxel is there, and empty."""
    slices = ct_series()
    for number, each in enumerate(slices):
        (tmp_path / f"{number}.dcm").write_bytes(encode(each))
    voxels = np.zeros((12, 32, 32, 2), np.bool_)
    voxels[3, 4:8, 5:9, 0], voxels[5, 4:6, 5:6, 1] = True, True
    mask = tmp_path / "seg.dcm"
    mask.write_bytes(encode(segmentation(voxels, ("GTV", "node"), slices)))
    assert refusal(tmp_path, mask).startswith("segment-unknown: the mask has several segments")
    for each in ("2", "node"):
        assert np.array_equal(read_pair(tmp_path, mask, Selection(segment=each)).mask, voxels[..., 1])
    voxels[..., 1] = False
    mask.write_bytes(encode(segmentation(voxels, ("GTV", "node"), slices)))
    assert refusal(tmp_path, mask, segment="2").startswith("segment-empty")
