"""Coded concepts. Only codes that were checked against their source are here."""

from __future__ import annotations

from dataclasses import dataclass

LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
IBSI = "https://theibsi.github.io"
"""The Image Biomarker Standardisation Initiative; DICOM coding scheme designator `IBSI`."""
UCUM = "http://unitsofmeasure.org"
AUSCULT = "urn:auscult:codes"
"""Our own codes, where no standard has one; DICOM coding scheme designator `99AUSCULT`."""


@dataclass(frozen=True, slots=True)
class Code:
    """A concept in a code system: the system's URI, the code and its display text.

    Where no standard has a code, `system` and `code` are empty and only the text is written: none is invented.
    """

    system: str
    code: str
    display: str


TUMOR_SIZE = Code(LOINC, "21889-1", "Size Tumor")
LONGEST_DIAMETER = Code(LOINC, "33728-7", "Size.maximum dimension in Tumor")
OTHER_DIAMETER = Code(LOINC, "33729-5", "Size additional dimension in Tumor")
VOLUME = Code(SNOMED, "118565006", "Volume")
DIAMETER = Code(SNOMED, "81827009", "Diameter")
LONG_AXIS = Code(SNOMED, "103339001", "Long axis")
PERPENDICULAR_AXIS = Code(SNOMED, "131189007", "Perpendicular Axis")
LUNG = Code(SNOMED, "39607008", "Lung")
NODULE = Code(SNOMED, "27925004", "Nodule")
ABNORMAL_STRUCTURE = Code(SNOMED, "49755003", "Morphologically Abnormal Structure")
PROBABILITY_OF_CANCER = Code(DCM, "111047", "Probability of cancer")
LUNG_CANCER = Code(SNOMED, "93880001", "Primary malignant neoplasm of lung")
RADIOMICS = Code("", "", "Radiomics features (IBSI)")
RECOMMENDATION = Code(DCM, "121075", "Recommendation")
LEFT = Code(SNOMED, "7771000", "Left")
RIGHT = Code(SNOMED, "24028007", "Right")
LESION_RISK = Code(DCM, "121153", "Lesion Risk")
LOW_RISK = Code(SNOMED, "723505004", "Low risk")
HIGH_RISK = Code(SNOMED, "723509005", "High risk")
NODULE_TYPE = Code(AUSCULT, "nodule-type", "Nodule type")
SOLID = Code(AUSCULT, "solid", "Solid")
PART_SOLID = Code(AUSCULT, "part-solid", "Part-solid")
NONSOLID = Code(DCM, "112120", "Ground glass opacity")
GROWTH = Code(AUSCULT, "growth", "Change since an earlier study")
GROWN = Code(AUSCULT, "grown", "Grown")
STABLE = Code(AUSCULT, "stable", "Stable")
SHRUNK = Code(AUSCULT, "shrunk", "Shrunk")
INTERVAL = Code(AUSCULT, "interval", "Time since the earlier study")
EARLIER_LONGEST = Code(AUSCULT, "earlier-longest-diameter", "Longest diameter in the earlier study")
EARLIER_MEAN = Code(AUSCULT, "earlier-mean-diameter", "Mean diameter in the earlier study")
EARLIER_VOLUME = Code(AUSCULT, "earlier-volume", "Volume in the earlier study")
DIAMETER_CHANGE = Code(AUSCULT, "mean-diameter-change", "Change of mean diameter")
VOLUME_CHANGE = Code(AUSCULT, "volume-change", "Change of volume")
DOUBLING_TIME = Code(AUSCULT, "volume-doubling-time", "Volume doubling time")
CT_CHEST = Code(SNOMED, "169069000", "CT of chest")
LOINC_CT_CHEST = Code(LOINC, "24627-2", "CT Chest")
LUNG_NODULE = Code(SNOMED, "786838002", "Nodule of lung")
SOLITARY_LUNG_NODULE = Code(SNOMED, "427359005", "Solitary nodule of lung")
COMPUTED_TOMOGRAPHY = Code(SNOMED, "77477000", "Computed tomography")
MAGNETIC_RESONANCE_IMAGING = Code(SNOMED, "113091000", "Magnetic resonance imaging")
POSITRON_EMISSION_TOMOGRAPHY = Code(SNOMED, "82918005", "Positron emission tomography")
