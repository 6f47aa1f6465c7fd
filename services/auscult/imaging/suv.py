"""PET values to standardised uptake values by body weight (SUVbw).

The vendor-neutral calculation of the QIBA FDG-PET/CT profile (qibawiki.rsna.org, Standardized Uptake Value), from
DICOM's own attributes (PS3.3, C.8.9) and the two private ones that it names, of GE and of Philips.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pydicom.dataset import Dataset

from auscult.domain.volume import BECQUERELS, SUV_BW
from auscult.imaging.part10 import Part10
from auscult.imaging.sandbox import sandbox
from auscult.platform.errors import DeadLetter

RADIOPHARMACEUTICAL = "RadiopharmaceuticalInformationSequence"
GRAMS = 1000.0
"""In a kilogram: DICOM has weights in kg, and an SUV is in g/ml."""
LEAST_DOSE = 1e4
"""Bq; a patient's dose is thousands of times more, and a smaller number is one in MBq."""
HALF_LIVES = 10.0
"""Between injection and scan; more are two dates that do not belong together."""
GE_SCAN = (b"GEMS_PETD_01", 0x0009, 0x0D)
"""Private creator, group and element of the time of the scan."""
PHILIPS_SUV = (b"Philips PET Private Group", 0x7053, 0x00)
"""Of the factor from counts to SUVbw."""
PHILIPS_ACTIVITY = (b"Philips PET Private Group", 0x7053, 0x09)
"""Of the factor from counts to Bq/ml."""


def scale(files: Sequence[Part10], *, becquerels: bool = False) -> tuple[float, str]:
    """Return the factor from a PET series' rescaled values to its unit, and the unit: SUV_BW, or BECQUERELS if asked.

    DeadLetter: `pet-dynamic`, `pet-gated`, `pet-units`, `pet-uncorrected`, `suv-decay-correction`,
    `suv-attributes`, `suv-times`.
    """
    first = files[0]
    _check_type(first)
    if not all(file.numbers("RescaleSlope") for file in files):
        raise DeadLetter("pet-units", "a slice of the PET has no RescaleSlope (PS3.3, C.8.9.4); send the original")
    units = _same(files, "Units")
    if units == "GML" and first.text("SUVType") in {"", "BW"} and not becquerels:
        return 1.0, SUV_BW
    factor = 1.0
    if units == "CNTS":
        by_weight, activity = (_factor(first, element) for element in (PHILIPS_SUV, PHILIPS_ACTIVITY))
        if by_weight and not becquerels:
            return by_weight, SUV_BW
        units, factor = ("BQML", activity) if activity else (units, factor)
    if units != "BQML":
        raise DeadLetter(
            "pet-units", f"PET in units {units[:16]!r} has no way to SUVbw here; send it in BQML, or in GML by weight"
        )
    return (factor, BECQUERELS) if becquerels else (factor * _by_weight(files), SUV_BW)


def _check_type(file: Part10) -> None:
    kind = next(iter(file.texts("SeriesType")), "")
    if kind == "DYNAMIC":
        raise DeadLetter("pet-dynamic", "the PET is dynamic, which is no single volume; send the static series")
    if kind == "GATED":
        raise DeadLetter("pet-gated", "the PET is gated, which is no single volume; send the series that is not")


def _same(files: Sequence[Part10], keyword: str) -> str:
    """Return an attribute that all slices must have in common."""
    values = {file.text(keyword) for file in files}
    if len(values) != 1:
        raise DeadLetter("pet-units", f"the PET's slices differ in {keyword}; send each kind as a series of its own")
    return values.pop()


def _by_weight(files: Sequence[Part10]) -> float:
    """Return the factor from Bq/ml to g/ml: weight by the dose that is left at the time the decay is corrected to."""
    corrected = set(_same(files, "CorrectedImage").split("\\"))
    if not {"ATTN", "DECAY"} <= corrected:
        raise DeadLetter(
            "pet-uncorrected", "the PET is not corrected for attenuation and decay; send the corrected series"
        )
    injected = _injected(files[0])
    weight = _positive(next(iter(files[0].numbers("PatientWeight")), 0.0), "PatientWeight")
    dose = _positive(injected.get("RadionuclideTotalDose"), "RadionuclideTotalDose")
    if dose < LEAST_DOSE:
        raise DeadLetter("suv-attributes", "RadionuclideTotalDose is no dose in Bq; correct it at the scanner")
    correction = _same(files, "DecayCorrection")
    if correction == "ADMIN":
        return weight * GRAMS / dose
    if correction != "START":
        raise DeadLetter(
            "suv-decay-correction",
            "the PET's decay is not corrected to its start or to the injection; send such a series",
        )
    half_life = _positive(injected.get("RadionuclideHalfLife"), "RadionuclideHalfLife")
    scanned = _scanned(files, half_life)
    passed = (scanned - _injection(injected, files[0], scanned)).total_seconds()
    if not 0 <= passed <= HALF_LIVES * half_life:
        raise DeadLetter(
            "suv-times",
            f"{passed / half_life:.3g} half-lives lie between injection and scan, as the PET says; correct the times",
        )
    return float(weight * GRAMS / (dose * 2 ** (-passed / half_life)))


def _injected(file: Part10) -> Dataset:
    told = json.loads(sandbox().call("attributes", file.path, [RADIOPHARMACEUTICAL], answer=str))
    items = list(Dataset.from_json(told).get(RADIOPHARMACEUTICAL) or ())
    if len(items) != 1:
        raise DeadLetter("suv-attributes", f"the PET names {len(items)} radiopharmaceuticals; an SUV needs one")
    item: Dataset = items[0]
    return item


def _positive(value: Any, keyword: str) -> float:
    number = float(value or 0.0)
    if not (math.isfinite(number) and number > 0):
        raise DeadLetter(
            "suv-attributes", f"SUVbw needs {keyword}, which the PET does not have; declare Bq/ml, or correct it"
        )
    return number


def _scanned(files: Sequence[Part10], half_life: float) -> datetime:
    """Return the time to which the decay is corrected: the series' own, unless it was made later."""
    acquired = [_moment(file.text("AcquisitionDate"), file.text("AcquisitionTime")) for file in files]
    series = _moment(files[0].text("SeriesDate"), files[0].text("SeriesTime"))
    known = [(time, file) for time, file in zip(acquired, files, strict=True) if time]
    if series and all(series <= time for time, _ in known):
        return series
    if told := _text(files[0], GE_SCAN):
        match = re.fullmatch(r"(\d{8})(\d{6}(?:\.\d+)?)", told)
        if match and (scan := _moment(match[1], match[2])):
            return scan
    if not known:
        raise DeadLetter("suv-attributes", "SUVbw needs SeriesTime or AcquisitionTime, which the PET does not have")
    earliest, file = min(known, key=lambda each: each[0])
    reference = next(iter(file.numbers("FrameReferenceTime")), 0.0) / 1000
    duration = next(iter(file.numbers("ActualFrameDuration")), 0.0) / 1000
    if reference <= 0 or duration <= 0:
        return earliest
    # The time within a frame at which its mean count rate is reached, from the frame's start.
    decay = math.log(2) / half_life * duration
    mean = duration / decay * math.log(decay / -math.expm1(-decay))
    return earliest - timedelta(seconds=reference - mean)


def _injection(injected: Dataset, file: Part10, scanned: datetime) -> datetime:
    """Return when it was injected; a time of day without a date is the last one before the scan."""
    match = re.fullmatch(
        r"(\d{8})(\d{2,6}(?:\.\d+)?)([+-]\d{4})?", str(injected.get("RadiopharmaceuticalStartDateTime") or "")
    )
    if match and (moment := _moment(match[1], match[2])):
        return moment + _offset(file.text("TimezoneOffsetFromUTC") or match[3]) - _offset(match[3])
    day = scanned.strftime("%Y%m%d")
    moment = _moment(day, str(injected.get("RadiopharmaceuticalStartTime") or ""))
    if moment is None:
        raise DeadLetter(
            "suv-attributes", "SUVbw needs RadiopharmaceuticalStartTime, which the PET does not have; declare Bq/ml"
        )
    return moment if moment <= scanned else moment - timedelta(days=1)


def _offset(text: str | None) -> timedelta:
    if not text:
        return timedelta()
    minutes = int(text[1:3]) * 60 + int(text[3:5])
    return timedelta(minutes=-minutes if text[0] == "-" else minutes)


def _moment(date: str, time: str) -> datetime | None:
    """Read a DA and a TM as one time on the scanner's clock; None where they are none."""
    match = re.fullmatch(r"(\d{8})(\d{2,6})(?:\.(\d{1,6}))?", f"{date}{time}")
    if match is None:
        return None
    try:
        day = f"{match[1]}{match[2]:0<6}"
        return datetime.strptime(f"{day}{match[3] or '0':0<6}", "%Y%m%d%H%M%S%f")  # noqa: DTZ007 - compared within
    except ValueError:
        return None


def _factor(file: Part10, element: tuple[bytes, int, int]) -> float:
    try:
        return float(_text(file, element) or 0.0)
    except ValueError:
        return 0.0


def _text(file: Part10, element: tuple[bytes, int, int]) -> str:
    return file.private(*element).decode("ascii", "replace").strip("\0 ")
