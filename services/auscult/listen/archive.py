"""What the image store holds, as queries ask for it: C-FIND (PS3.4, C.4.1) and QIDO-RS (PS3.18, 10.6) alike."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset

from auscult.imaging.sandbox import sandbox
from auscult.imaging.store import ImageStore
from auscult.platform.errors import Refused

Level = Literal["STUDY", "SERIES", "IMAGE"]
LEVELS: tuple[Level, ...] = ("STUDY", "SERIES", "IMAGE")
KEYS: Mapping[Level, tuple[str, ...]] = {
    "STUDY": (
        *("SpecificCharacterSet", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
        *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID"),
        *("StudyID", "StudyDescription", "TimezoneOffsetFromUTC"),
    ),
    "SERIES": (
        *("Modality", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber", "BodyPartExamined"),
        *("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime"),
    ),
    "IMAGE": (
        *("SOPClassUID", "SOPInstanceUID", "InstanceNumber", "Rows", "Columns", "BitsAllocated", "NumberOfFrames"),
    ),
}
"""What is answered at each level, and at all below it (PS3.18, tables 10.6.3-3 to 10.6.3-5)."""
ALL_KEYS = tuple(key for level in LEVELS for key in KEYS[level])
REMEMBERED = 20_000
"""Instances whose attributes are kept in memory; a stored file never changes."""
LONGEST_PATTERN = 256
"""Characters; three component groups of a name have 194 (PS3.5, 6.2)."""
_RANGE = {"DA", "TM", "DT"}

Attributes = dict[str, Any]
"""The DICOM JSON model (PS3.18, F): by tag in hexadecimal digits."""


class Archive:
    """One tenant's instances. Each is read in `sandbox`, once."""

    def __init__(self, store: ImageStore, tenant: str) -> None:
        self._store, self._tenant = store, tenant
        self._attributes = lru_cache(REMEMBERED)(_attributes)

    def find(self, level: Level, query: Mapping[str, str]) -> Iterator[Attributes]:
        """Yield what matches `query`, values by keyword, at `level`."""
        for files in self._studies(query.get("StudyInstanceUID", "")):
            series: dict[str, list[Path]] = {}
            for file in files:
                series.setdefault(file.parent.name, []).append(file)
            firsts = {uid: self._read(members[0]) for uid, members in series.items()}
            told: dict[str, list[Any]] = {
                "ModalitiesInStudy": sorted({value(first, "Modality") for first in firsts.values()}),
                "NumberOfStudyRelatedSeries": [len(series)],
                "NumberOfStudyRelatedInstances": [len(files)],
            }
            if level == "STUDY":
                yield from _matching(_with(next(iter(firsts.values())), **told), query)
                continue
            for uid, members in series.items():
                if level == "SERIES":
                    counted = _with(firsts[uid], NumberOfSeriesRelatedInstances=[len(members)], **told)
                    yield from _matching(counted, query)
                elif _among(uid, query.get("SeriesInstanceUID", "")):
                    for member in members:
                        yield from _matching(_with(self._read(member), **told), query)

    def with_more(self, found: Attributes, asked: Sequence[str]) -> Attributes:
        """Return what was found with further attributes, keywords or tags, as the first of its instances has them."""
        known = {tag(each) for each in ALL_KEYS}
        more = [keyword_for_tag(int(tag(each), 16)) for each in asked if tag(each) not in known]
        keywords = [each for each in more if each]
        uids = [value(found, key) for key in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
        first = next(iter(self.files(*uids)), None) if keywords else None
        if first is None:
            return found
        try:
            return _told(first, keywords) | found
        except Refused:
            return found

    def files(self, study: str, series: str = "", instance: str = "") -> list[Path]:
        """Return the files of a study, of its series, or one; `series`, `instance`: empty for all.

        Refused (`invalid-uid`).
        """
        return [
            file
            for file in self._store.instances(self._tenant, study)
            if series in {"", file.parent.name} and instance in {"", file.stem}
        ]

    def _studies(self, wanted: str) -> Iterator[list[Path]]:
        uids = wanted.replace(",", "\\").split("\\") if wanted and "*" not in wanted else None
        for uid in self._store.studies(self._tenant) if uids is None else uids:
            try:
                files = self.files(uid.strip())
            except Refused:
                continue
            if files:
                yield files

    def _read(self, file: Path) -> Attributes:
        try:
            return self._attributes(file)
        except Refused:
            return {}


def _attributes(file: Path) -> Attributes:
    return _told(file, ALL_KEYS)


def metadata(file: Path, place: str) -> Attributes:
    """Return all attributes of an instance; bulk data by reference below `place`, its URL, none inside sequences.

    Refused as by `Sandbox.call`.
    """
    found = _told(file, ())
    for digits, each in found.items():
        if "BulkDataURI" in each:
            each["BulkDataURI"] = f"{place}/bulkdata/{digits}"
    if tag("Rows") in found:
        vr = "OB" if found.get(tag("BitsAllocated"), {}).get("Value", [16])[0] <= 8 else "OW"
        found[tag("PixelData")] = {"vr": vr, "BulkDataURI": f"{place}/bulkdata/{tag('PixelData')}"}
    return found


def uids_of(file: Path) -> tuple[str, str, str]:
    """Return the study's, the series' and the instance's UID of a stored file."""
    return file.parent.parent.name, file.parent.name, file.stem


def _told(file: Path, keywords: Sequence[str]) -> Attributes:
    found: Attributes = json.loads(sandbox().call("attributes", file, list(keywords), answer=str))
    return found


def tag(keyword: str) -> str:
    """Return a keyword's, or hexadecimal, tag as eight hexadecimal digits; empty where it is neither."""
    number = tag_for_keyword(keyword)
    if number is None:
        return keyword.upper() if re.fullmatch(r"[0-9A-Fa-f]{8}", keyword) else ""
    return f"{number:08X}"


def value(attributes: Attributes, keyword: str) -> str:
    """Return an attribute's values as text, joined by backslashes."""
    values = attributes.get(tag(keyword), {}).get("Value", [])
    return "\\".join(str(each.get("Alphabetic", "") if isinstance(each, dict) else each) for each in values)


def _with(attributes: Attributes, **values: list[Any]) -> Attributes:
    return attributes | {tag(key): {"vr": dictionary_VR(key), "Value": each} for key, each in values.items()}


def _matching(attributes: Attributes, query: Mapping[str, str]) -> Iterator[Attributes]:
    if all(_matches(attributes, keyword, wanted) for keyword, wanted in query.items() if wanted):
        yield attributes


def _matches(attributes: Attributes, keyword: str, wanted: str) -> bool:
    """Match one key (PS3.4, C.2.2.2): a list of UIDs, a range, wildcards, or a single value.

    A key that is not kept matches everything, as optional keys may (PS3.4, C.2.2.1.3).
    """
    digits = tag(keyword)
    keyword = keyword_for_tag(int(digits, 16)) if digits else ""
    if keyword not in ALL_KEYS and digits not in attributes:
        return True
    vr, given = dictionary_VR(keyword), value(attributes, keyword)
    if vr == "UI":
        return _among(given, wanted)
    if vr in _RANGE and "-" in wanted:
        low, _, high = wanted.partition("-")
        return bool(given) and (not low or given[: len(low)] >= low) and (not high or given[: len(high)] <= high)
    if vr == "PN":
        return any(_like(part, wanted) for part in (given, given.rstrip("^")))
    return any(_like(part, wanted) for part in given.split("\\"))


def _like(given: str, wanted: str) -> bool:
    # Of fnmatch's patterns DICOM has two.
    return len(wanted) <= LONGEST_PATTERN and fnmatch.fnmatchcase(
        given.casefold(), wanted.casefold().replace("[", "[[]")
    )


def _among(uid: str, wanted: str) -> bool:
    return wanted in {"", "*"} or uid in {each.strip() for each in wanted.replace(",", "\\").split("\\")}


def dataset(attributes: Attributes) -> Dataset:
    """Return DICOM JSON as a data set."""
    return Dataset.from_json(attributes)
