"""Is all of a study here? Judged from its headers alone, each time some arrived."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from auscult.imaging.header import InstanceHeader
from auscult.imaging.patient import one_patient
from auscult.imaging.slices import primary_series, stack
from auscult.platform.errors import DeadLetter, Quarantine

_MORE_MAY_HELP = {"too-few-slices", "missing-slices", "irregular-spacing"}


@dataclass(frozen=True, slots=True)
class Completeness:
    """A judgement. `reason` is kebab-case, `detail` is for the operator and has no PHI; empty where complete.

    `complete`: the series can be computed. `incomplete`: slices are missing. `ambiguous`: all may be here, but
    it makes no single volume. `quarantine`: of two patients. `skipped`: nothing to compute, such as a dose report.
    Slices missing at the ends of a series cannot be seen; that it rests unchanged for a while must vouch for them.
    """

    status: Literal["complete", "incomplete", "ambiguous", "quarantine", "skipped"]
    reason: str = ""
    detail: str = ""


def judge(headers: Collection[InstanceHeader]) -> Completeness:
    """Judge one study's instances; `imaging.slices` documents which series counts, and the reasons."""
    try:
        one_patient(headers)
        series = primary_series(headers)
        if not series:
            return Completeness("skipped", "no-image-series", "the study has no CT, MR or PET slices with a position")
        stack(series)
    except Quarantine as doubt:
        return Completeness("quarantine", doubt.reason, str(doubt.args[0]))
    except DeadLetter as problem:
        status: Literal["incomplete", "ambiguous"] = "incomplete" if problem.reason in _MORE_MAY_HELP else "ambiguous"
        return Completeness(status, problem.reason, str(problem.args[0]))
    return Completeness("complete")
