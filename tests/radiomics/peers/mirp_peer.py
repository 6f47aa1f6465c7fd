"""Print what MIRP gives as CSV: `python mirp_peer.py FOLDER REGION`, in an environment of its own; see record.sh."""

from __future__ import annotations

import csv
import sys
from importlib.metadata import version

from mirp import extract_features

DIRECTIONAL = ["2d_average", "2d_slice_merge", "2.5d_direction_merge", "2.5d_volume_merge", "3d_average"]
DIRECTIONAL += ["3d_volume_merge"]
UNDIRECTED = ["2d", "2.5d", "3d"]

folder, region = sys.argv[1:]
(table,) = extract_features(
    image=f"{folder}/{region}_image.nii.gz",
    mask=f"{folder}/{region}_mask.nii.gz",
    image_modality="ct",
    resegmentation_intensity_range=[-1000.0, 3000.0],
    base_discretisation_method="fixed_bin_size",
    base_discretisation_bin_width=25.0,
    base_feature_families="all",
    glcm_spatial_method=DIRECTIONAL,
    glrlm_spatial_method=DIRECTIONAL,
    glszm_spatial_method=UNDIRECTED,
    gldzm_spatial_method=UNDIRECTED,
    ngtdm_spatial_method=UNDIRECTED,
    ngldm_spatial_method=UNDIRECTED,
)
writer = csv.writer(sys.stdout, lineterminator="\n")
for name in table.columns:
    if name.startswith(("morph_", "loc_", "stat_", "ih_", "ivh_", "cm_", "rlm_", "szm_", "dzm_", "ngt_", "ngl_")):
        writer.writerow([region, version("mirp"), name, repr(float(table[name].iloc[0]))])
