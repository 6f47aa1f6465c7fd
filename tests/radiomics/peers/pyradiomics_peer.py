"""Print what PyRadiomics gives as CSV: `python pyradiomics_peer.py FOLDER REGION`; see record.sh."""

from __future__ import annotations

import csv
import logging
import sys

from radiomics.featureextractor import RadiomicsFeatureExtractor

from radiomics import __version__

logging.getLogger("radiomics").setLevel(logging.ERROR)
folder, region = sys.argv[1:]
extractor = RadiomicsFeatureExtractor(binWidth=25, distances=[1], symmetricalGLCM=True)
extractor.disableAllFeatures()
for family in ("firstorder", "shape", "glcm", "glrlm", "glszm", "gldm", "ngtdm"):
    extractor.enableFeatureClassByName(family)
values = extractor.execute(f"{folder}/{region}_image.nii.gz", f"{folder}/{region}_mask.nii.gz")
writer = csv.writer(sys.stdout, lineterminator="\n")
for name, value in values.items():
    if name.startswith("original_"):
        writer.writerow([region, __version__, name.removeprefix("original_"), repr(float(value))])
