"""Change of a nodule between two CTs: volume doubling time, and what the guideline makes of it.

Doubling time: days x ln 2 / ln(V2 / V1), for exponential growth (Schwartz, Cancer 1961;14:1272). A change of volume
of 25 % and more is significant, less is within what volumetry can tell. Doubling times of up to 400, of 400 to 600
and of more than 600 days lead to different advice (British Thoracic Society: Callister et al., Thorax 2015;70:ii1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date

from auscult.domain import codes
from auscult.domain.finding import Evaluation, Measurement, MeasurementGroup, ModelReference, Recommendation
from auscult.pathways.lung_nodule.fleischner import Appearance

ALGORITHM = ModelReference(
    name="lung_nodule.growth",
    version="1",
    evidence="Schwartz, Cancer 1961;14:1272; Callister et al., Thorax 2015;70:ii1, doi 10.1136/thoraxjnl-2015-207168",
)
GUIDELINE = ModelReference(
    name="bts_2015",
    version="2015",
    evidence="Callister et al., Thorax 2015;70:ii1, doi 10.1136/thoraxjnl-2015-207168",
)
GROUP = "growth"
SIGNIFICANT = 0.25
"""Share of the earlier volume: a smaller change is no growth."""
FAST, SLOW = 400.0, 600.0
"""Days of doubling time."""
TEXTS = {
    "VDT_UP_TO_400": "Volume doubling time of 400 days or less: further work-up.",
    "VDT_400_TO_600": "Volume doubling time of 400 to 600 days: biopsy or surveillance, as the patient prefers.",
    "VDT_ABOVE_600": "Volume doubling time of more than 600 days: surveillance, or discharge.",
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """One nodule on one day. Diameters in mm, volume in mm3."""

    longest: float
    mean: float
    volume: float


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a nodule in `days` between two CTs."""

    earlier: Sizes
    later: Sizes
    on: date
    """Day of the earlier CT."""
    days: int
    study_uid: str
    """Of the earlier CT."""

    @property
    def share(self) -> float:
        """The change of volume as a share of the earlier one: 1 where it doubled."""
        return self.later.volume / self.earlier.volume - 1

    @property
    def doubling_time(self) -> float | None:
        """The volume doubling time in days; None where the volume did not grow."""
        return doubling_time(self.earlier.volume, self.later.volume, self.days)

    @property
    def significant(self) -> bool:
        """Whether it grew by more than volumetry's error."""
        return self.share >= SIGNIFICANT

    @property
    def verdict(self) -> codes.Code:
        """Grown, stable or shrunk."""
        if self.significant:
            return codes.GROWN
        return codes.SHRUNK if self.share <= -SIGNIFICANT else codes.STABLE

    def group(self) -> MeasurementGroup:
        """Return the numbers; without a doubling time where there is none."""
        measurements = [
            Measurement("interval", codes.INTERVAL, float(self.days), "d"),
            Measurement("earlier-longest-diameter", codes.EARLIER_LONGEST, self.earlier.longest, "mm"),
            Measurement("earlier-mean-diameter", codes.EARLIER_MEAN, self.earlier.mean, "mm"),
            Measurement("earlier-volume", codes.EARLIER_VOLUME, self.earlier.volume, "mm3"),
            Measurement("mean-diameter-change", codes.DIAMETER_CHANGE, self.later.mean - self.earlier.mean, "mm"),
            Measurement("volume-change", codes.VOLUME_CHANGE, 100 * self.share, "%"),
        ]
        if (time := self.doubling_time) is not None:
            measurements.append(Measurement("volume-doubling-time", codes.DOUBLING_TIME, time, "d"))
        return MeasurementGroup(GROUP, codes.GROWTH, ALGORITHM, tuple(measurements), compared_with=self.study_uid)

    def evaluation(self) -> Evaluation:
        """Return the verdict as a coded judgement."""
        return Evaluation(codes.GROWTH, self.verdict, ALGORITHM)


def doubling_time(earlier: float, later: float, days: float) -> float | None:
    """Return the volume doubling time in days (Schwartz 1961) of volumes in one unit; None where it did not grow."""
    if not (earlier > 0 and later > earlier and days > 0):
        return None
    return days * math.log(2) / math.log(later / earlier)


def recommend(change: Change, appearance: Appearance) -> Recommendation | None:
    """Return what the guideline advises for a nodule that grew; None where it did not, or is not solid.

    The thresholds are those of solid nodules: subsolid ones grow by their solid part, slowly.
    """
    time = change.doubling_time
    if not change.significant or time is None or appearance is not Appearance.SOLID:
        return None
    rule = "VDT_UP_TO_400" if time <= FAST else "VDT_400_TO_600" if time <= SLOW else "VDT_ABOVE_600"
    return Recommendation(GUIDELINE, rule, TEXTS[rule])
