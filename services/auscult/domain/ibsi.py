"""Radiomics features as the Image Biomarker Standardisation Initiative defines them.

Names, codes and definitions: IBSI reference manual (Zwanenburg et al., arXiv:1612.07003; Radiology
2020;295:328, doi 10.1148/radiol.2020191145). Units are those of CT: lengths in mm, intensities in HU.
"""

from __future__ import annotations

from dataclasses import dataclass

from auscult.domain.codes import Code

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
