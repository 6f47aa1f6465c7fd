"""What was measured of a region, said so that every encoder can write it: code, meaning, unit, family, method.

A family's features that were aggregated in the same way are one MeasurementGroup: FHIR's components and TID 1500's
measurements have no place of their own for how matrices were brought together, a group has. Families: DICOM
PS3.16, annex D, has codes for the texture matrices and none for the others. Aggregations: the IBSI's reference
manual, section 3 (arXiv:1612.07003).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby

from auscult.domain.codes import DCM, IBSI, Code
from auscult.domain.finding import Measurement, MeasurementGroup, ModelReference
from auscult.domain.ibsi import HISTOGRAM, HU, MORPHOLOGY, STATISTICS, Feature
from auscult.domain.ibsi_features import (
    COOCCURRENCE,
    DEPENDENCE,
    DISTANCE_ZONE,
    LOCAL_INTENSITY,
    RUN_LENGTH,
    SIZE_ZONE,
    TONE_DIFFERENCE,
    VOLUME_HISTOGRAM,
)

GROUP = "radiomics"
"""What the names of all groups of radiomics features begin with."""

FAMILIES: dict[str, Code] = {
    MORPHOLOGY: Code("", "", "Radiomics: morphology"),
    LOCAL_INTENSITY: Code("", "", "Radiomics: local intensity"),
    STATISTICS: Code("", "", "Radiomics: intensity statistics"),
    HISTOGRAM: Code("", "", "Radiomics: intensity histogram"),
    VOLUME_HISTOGRAM: Code("", "", "Radiomics: intensity-volume histogram"),
    COOCCURRENCE: Code(DCM, "126067", "Gray Level Co-occurrence Matrix"),
    RUN_LENGTH: Code(DCM, "128776", "Gray Level Run Length Matrix"),
    SIZE_ZONE: Code(DCM, "128777", "Gray Level Size Zone Matrix"),
    DISTANCE_ZONE: Code(DCM, "128778", "Gray Level Distance Zone Matrix"),
    TONE_DIFFERENCE: Code(DCM, "128779", "Neighbourhood Grey Tone Difference Matrix"),
    DEPENDENCE: Code(DCM, "128780", "Neighbouring Grey Level Dependence Matrix"),
}
"""The code of each family."""

AGGREGATIONS: dict[str, Code] = {
    "2D_avg": Code(IBSI, "BTW3", "By slice, averaged over directions and slices"),
    "2D_comb": Code(IBSI, "SUJT", "By slice, directions merged, averaged over slices"),
    "2_5D_avg": Code(IBSI, "JJUI", "Slices merged, averaged over directions"),
    "2_5D_comb": Code(IBSI, "ZW7Z", "Slices and directions merged"),
    "3D_avg": Code(IBSI, "ITBB", "In the volume, averaged over directions"),
    "3D_comb": Code(IBSI, "IAZD", "In the volume, directions merged"),
    "2D": Code(IBSI, "8QNN", "By slice, averaged over slices"),
    "2_5D": Code(IBSI, "62GR", "Slices merged"),
    "3D": Code(IBSI, "KOBO", "In the volume"),
}
"""How a texture feature's matrices are brought together, by `Feature.aggregation`."""


def described(
    features: Iterable[Feature],
    values: Mapping[str, float],
    *,
    model: Callable[[Feature], ModelReference],
    settings: str,
    intensity_unit: str = HU,
) -> tuple[MeasurementGroup, ...]:
    """Return a group for each family and aggregation of `features`, in their order.

    `values`: by feature name; those that are not finite are named as without a value. `model`: who computes a
    feature. `settings`: the processing chain, as JSON, from which all of it can be computed again.
    """
    groups = []
    for (family, aggregation), members in groupby(features, key=lambda each: (each.family, each.aggregation)):
        listed = list(members)
        prefix = listed[0].name.partition("_")[0]
        groups.append(
            MeasurementGroup(
                name="/".join(part for part in (GROUP, prefix, aggregation) if part),
                code=FAMILIES[family],
                model=model(listed[0]),
                measurements=tuple(
                    Measurement(each.name, each.code, values[each.name], unit(each, intensity_unit))
                    for each in listed
                    if math.isfinite(values[each.name])
                ),
                method=AGGREGATIONS.get(aggregation),
                settings=settings,
                without_value=tuple(each.code for each in listed if not math.isfinite(values[each.name])),
            )
        )
    return tuple(groups)


def unit(feature: Feature, intensity: str = HU) -> str:
    """Return a feature's unit where the image's intensities have the UCUM unit `intensity`; `1` is a pure number."""
    if intensity == HU or HU not in feature.unit:
        return feature.unit
    if intensity == "1":
        return {HU: "1", f"{HU}2": "1"}.get(feature.unit, feature.unit.removeprefix(f"{HU}."))
    whole = f"({intensity})" if set(intensity) & set("/.") else intensity
    return intensity if feature.unit == HU else feature.unit.replace(HU, whole)
