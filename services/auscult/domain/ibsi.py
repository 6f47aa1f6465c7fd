"""Radiomics features as the Image Biomarker Standardisation Initiative defines them.

Names, codes and definitions: IBSI reference manual (Zwanenburg et al., arXiv:1612.07003; Radiology
2020;295:328, doi 10.1148/radiol.2020191145). Units are those of CT: lengths in mm, intensities in HU.
"""

from __future__ import annotations

from dataclasses import dataclass

from auscult.domain.codes import IBSI, Code

HU = "[hnsf'U]"
"""UCUM's Hounsfield unit."""

MORPHOLOGY = "morphology"
STATISTICS = "statistics"
HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Feature:
    """One number of a radiomics model.

    `name` is stable; `code` is the IBSI's; `unit` is UCUM (`1` for a pure number). `compliant` is True only
    where a test shows the model's value on an IBSI reference image to be the consensus value.
    """

    name: str
    code: Code
    unit: str
    family: str
    compliant: bool = False
    aggregation: str = ""
    """How a texture feature's matrices are brought together, as `domain.ibsi_features` names it."""


def _feature(name: str, code: str, display: str, unit: str, family: str) -> Feature:
    return Feature(name, Code(IBSI, code, display), unit, family, compliant=True)


RADIOMICS_BASIC: tuple[Feature, ...] = (
    _feature("volume", "YEKZ", "Volume (voxel counting)", "mm3", MORPHOLOGY),
    _feature("major-axis-length", "TDIC", "Major axis length", "mm", MORPHOLOGY),
    _feature("minor-axis-length", "P9VJ", "Minor axis length", "mm", MORPHOLOGY),
    _feature("least-axis-length", "7J51", "Least axis length", "mm", MORPHOLOGY),
    _feature("elongation", "Q3CK", "Elongation", "1", MORPHOLOGY),
    _feature("flatness", "N17B", "Flatness", "1", MORPHOLOGY),
    _feature("mean", "Q4LE", "Mean intensity", HU, STATISTICS),
    _feature("variance", "ECT3", "Intensity variance", f"{HU}2", STATISTICS),
    _feature("skewness", "KE2A", "Intensity skewness", "1", STATISTICS),
    _feature("kurtosis", "IPH6", "(Excess) intensity kurtosis", "1", STATISTICS),
    _feature("median", "Y12H", "Median intensity", HU, STATISTICS),
    _feature("minimum", "1GSF", "Minimum intensity", HU, STATISTICS),
    _feature("percentile-10", "QG58", "10th intensity percentile", HU, STATISTICS),
    _feature("percentile-90", "8DWT", "90th intensity percentile", HU, STATISTICS),
    _feature("maximum", "84IY", "Maximum intensity", HU, STATISTICS),
    _feature("interquartile-range", "SALO", "Intensity interquartile range", HU, STATISTICS),
    _feature("range", "2OJQ", "Intensity range", HU, STATISTICS),
    _feature("mean-absolute-deviation", "4FUA", "Intensity-based mean absolute deviation", HU, STATISTICS),
    _feature(
        "robust-mean-absolute-deviation",
        "1128",
        "Intensity-based robust mean absolute deviation",
        HU,
        STATISTICS,
    ),
    _feature("median-absolute-deviation", "N72L", "Intensity-based median absolute deviation", HU, STATISTICS),
    _feature("coefficient-of-variation", "7TET", "Intensity-based coefficient of variation", "1", STATISTICS),
    _feature(
        "quartile-coefficient-of-dispersion",
        "9S40",
        "Intensity-based quartile coefficient of dispersion",
        "1",
        STATISTICS,
    ),
    _feature("energy", "N8CA", "Intensity-based energy", f"{HU}2", STATISTICS),
    _feature("root-mean-square", "5ZWQ", "Root mean square intensity", HU, STATISTICS),
    _feature("entropy", "TLU2", "Discretised intensity entropy", "1", HISTOGRAM),
    _feature("uniformity", "BJ5W", "Discretised intensity uniformity", "1", HISTOGRAM),
)
"""What the model `radiomics_basic` returns, in the order of its output `features`."""
