"""When a slice was acquired, and how old the patient then was, as far as DICOM says."""

from __future__ import annotations

import re
from datetime import date, datetime

from auscult.imaging.part10 import Part10

_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_SOURCES = (
    ("AcquisitionDateTime", ""),
    ("AcquisitionDate", "AcquisitionTime"),
    ("SeriesDate", "SeriesTime"),
    ("StudyDate", "StudyTime"),
)


def age_in_years(file: Part10) -> float | None:
    """Return PatientAge (`065Y`, `018M`, `006W`, `010D`) in years; None where it is not given."""
    match = re.fullmatch(r"(\d{3})([YMWD])", file.text("PatientAge"))
    return int(match[1]) * _YEARS[match[2]] if match else None


def acquired(file: Part10) -> datetime | date | None:
    """Return an aware datetime where the UTC offset is known, else the date; None where there is none.

    A time of day without an offset names no instant and is left out.
    """
    for first, second in _SOURCES:
        text = file.text(first)
        time = file.text(second) if second else ""
        match = re.fullmatch(r"(\d{8})(\d{2,6})?(?:\.\d+)?([+-]\d{4})?", f"{text}{time}")
        if match is None:
            continue
        try:
            day = datetime.strptime(match[1], "%Y%m%d").date()  # noqa: DTZ007 - a date has no offset
            offset = match[3] or file.text("TimezoneOffsetFromUTC")
            if match[2] and offset:
                return datetime.strptime(f"{match[1]}{match[2]:0<6}{offset}", "%Y%m%d%H%M%S%z")
        except ValueError:
            continue
        return day
    return None
