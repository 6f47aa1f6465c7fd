"""Every feature of the IBSI's first chapter: name, code, unit, family and how its matrices are brought together.

Names are the tags of the initiative's tables of reference values, so that each is found there. Codes: DICOM PS3.16,
CID 218 and the context groups in it, has those of shape, histogram and texture; those of statistics, local intensity
and the intensity-volume histogram are the reference manual's (arXiv:1612.07003).
"""

from __future__ import annotations

from auscult.domain.codes import IBSI, Code
from auscult.domain.ibsi import HISTOGRAM, HU, MORPHOLOGY, STATISTICS, Feature

LOCAL_INTENSITY = "local intensity"
VOLUME_HISTOGRAM = "intensity-volume histogram"
COOCCURRENCE = "grey level co-occurrence matrix"
RUN_LENGTH = "grey level run length matrix"
SIZE_ZONE = "grey level size zone matrix"
DISTANCE_ZONE = "grey level distance zone matrix"
TONE_DIFFERENCE = "neighbourhood grey tone difference matrix"
DEPENDENCE = "neighbouring grey level dependence matrix"

DIRECTIONAL = ("2D_avg", "2D_comb", "2_5D_avg", "2_5D_comb", "3D_avg", "3D_comb")
"""By slice, or through the volume, averaged over directions or merged: IBSI BTW3, SUJT, JJUI, ZW7Z, ITBB, IAZD."""
UNDIRECTED = ("2D", "2_5D", "3D")
"""Averaged over slices, merged over slices, or in the volume: IBSI 8QNN, 62GR, KOBO."""

_MORPHOLOGY = """
volume RNU0 mm3 Volume (mesh)
vol_approx YEKZ mm3 Volume (voxel counting)
area_mesh C0JK mm2 Surface area (mesh)
av 2PR5 /mm Surface to volume ratio
comp_1 SKGS 1 Compactness 1
comp_2 BQWJ 1 Compactness 2
sph_dispr KRCK 1 Spherical disproportion
sphericity QCFX 1 Sphericity
asphericity 25C7 1 Asphericity
com KLMA mm Centre of mass shift
diam L0JK mm Maximum 3D diameter
pca_maj_axis TDIC mm Major axis length
pca_min_axis P9VJ mm Minor axis length
pca_least_axis 7J51 mm Least axis length
pca_elongation Q3CK 1 Elongation
pca_flatness N17B 1 Flatness
vol_dens_aabb PBX1 1 Volume density (axis-aligned bounding box)
area_dens_aabb R59B 1 Area density (axis-aligned bounding box)
vol_dens_aee 6BDE 1 Volume density (approximate enclosing ellipsoid)
area_dens_aee RDD2 1 Area density (approximate enclosing ellipsoid)
vol_dens_conv_hull R3ER 1 Volume density (convex hull)
area_dens_conv_hull 7T7F 1 Area density (convex hull)
integ_int 99N0 HU.mm3 Integrated intensity
moran_i N365 1 Moran's I index
geary_c NPT7 1 Geary's C measure
"""
_LOCAL = """
peak_loc VJGA HU Local intensity peak
peak_glob 0F91 HU Global intensity peak
"""
_STATISTICS = """
mean Q4LE HU Mean intensity
var ECT3 HU2 Intensity variance
skew KE2A 1 Intensity skewness
kurt IPH6 1 (Excess) intensity kurtosis
median Y12H HU Median intensity
min 1GSF HU Minimum intensity
p10 QG58 HU 10th intensity percentile
p90 8DWT HU 90th intensity percentile
max 84IY HU Maximum intensity
iqr SALO HU Intensity interquartile range
range 2OJQ HU Intensity range
mad 4FUA HU Intensity-based mean absolute deviation
rmad 1128 HU Intensity-based robust mean absolute deviation
medad N72L HU Intensity-based median absolute deviation
cov 7TET 1 Intensity-based coefficient of variation
qcod 9S40 1 Intensity-based quartile coefficient of dispersion
energy N8CA HU2 Intensity-based energy
rms 5ZWQ HU Root mean square intensity
"""
_HISTOGRAM = """
mean X6K6 1 Mean discretised intensity
var CH89 1 Discretised intensity variance
skew 88K1 1 Discretised intensity skewness
kurt C3I7 1 (Excess) discretised intensity kurtosis
median WIFQ 1 Median discretised intensity
min 1PR8 1 Minimum discretised intensity
p10 GPMT 1 10th discretised intensity percentile
p90 OZ0C 1 90th discretised intensity percentile
max 3NCY 1 Maximum discretised intensity
mode AMMC 1 Intensity histogram mode
iqr WR0O 1 Discretised intensity interquartile range
range 5Z3W 1 Discretised intensity range
mad D2ZX 1 Intensity histogram mean absolute deviation
rmad WRZB 1 Intensity histogram robust mean absolute deviation
medad 4RNL 1 Intensity histogram median absolute deviation
cov CWYJ 1 Intensity histogram coefficient of variation
qcod SLWD 1 Intensity histogram quartile coefficient of dispersion
entropy TLU2 1 Discretised intensity entropy
uniformity BJ5W 1 Discretised intensity uniformity
max_grad 12CE 1 Maximum histogram gradient
max_grad_g 8E6O 1 Maximum histogram gradient intensity
min_grad VQB3 1 Minimum histogram gradient
min_grad_g RHQZ 1 Minimum histogram gradient intensity
"""
_VOLUME_HISTOGRAM = """
v10 NK6P 1 Volume fraction at 10% intensity
v90 4279 1 Volume fraction at 90% intensity
i10 PWN1 HU Intensity at 10% volume
i90 BOHI HU Intensity at 90% volume
diff_v10_v90 WITY 1 Volume fraction difference between 10% and 90% intensity
diff_i10_i90 JXJA HU Intensity difference between 10% and 90% volume
"""
_COOCCURRENCE = """
joint_max GYBY 1 Joint maximum
joint_avg 60VM 1 Joint average
joint_var UR99 1 Joint variance
joint_entr TU9B 1 Joint entropy
diff_avg TF7R 1 Difference average
diff_var D3YU 1 Difference variance
diff_entr NTRS 1 Difference entropy
sum_avg ZGXS 1 Sum average
sum_var OEEB 1 Sum variance
sum_entr P6QZ 1 Sum entropy
energy 8ZQL 1 Angular second moment
contrast ACUI 1 Contrast
dissimilarity 8S9J 1 Dissimilarity
inv_diff IB1Z 1 Inverse difference
inv_diff_norm NDRX 1 Normalised inverse difference
inv_diff_mom WF0Z 1 Inverse difference moment
inv_diff_mom_norm 1QCO 1 Normalised inverse difference moment
inv_var E8JP 1 Inverse variance
corr NI2N 1 Correlation
auto_corr QWB0 1 Autocorrelation
clust_tend DG8W 1 Cluster tendency
clust_shade 7NFM 1 Cluster shade
clust_prom AE86 1 Cluster prominence
info_corr1 R8DG 1 Information correlation 1
info_corr2 JN9H 1 Information correlation 2
"""
_RUN_LENGTH = """
sre 22OV 1 Short runs emphasis
lre W4KF 1 Long runs emphasis
lgre V3SW 1 Low grey level run emphasis
hgre G3QZ 1 High grey level run emphasis
srlge HTZT 1 Short run low grey level emphasis
srhge GD3A 1 Short run high grey level emphasis
lrlge IVPO 1 Long run low grey level emphasis
lrhge 3KUM 1 Long run high grey level emphasis
glnu R5YN 1 Grey level non-uniformity
glnu_norm OVBL 1 Normalised grey level non-uniformity
rlnu W92Y 1 Run length non-uniformity
rlnu_norm IC23 1 Normalised run length non-uniformity
r_perc 9ZK5 1 Run percentage
gl_var 8CE5 1 Grey level variance
rl_var SXLW 1 Run length variance
rl_entr HJ9O 1 Run entropy
"""
_SIZE_ZONE = """
sze 5QRC 1 Small zone emphasis
lze 48P8 1 Large zone emphasis
lgze XMSY 1 Low grey level zone emphasis
hgze 5GN9 1 High grey level zone emphasis
szlge 5RAI 1 Small zone low grey level emphasis
szhge HW1V 1 Small zone high grey level emphasis
lzlge YH51 1 Large zone low grey level emphasis
lzhge J17V 1 Large zone high grey level emphasis
glnu JNSA 1 Grey level non-uniformity
glnu_norm Y1RO 1 Normalised grey level non-uniformity
zsnu 4JP3 1 Zone size non-uniformity
zsnu_norm VB3A 1 Normalised zone size non-uniformity
z_perc P30P 1 Zone percentage
gl_var BYLV 1 Grey level variance
zs_var 3NSA 1 Zone size variance
zs_entr GU8N 1 Zone size entropy
"""
_DISTANCE_ZONE = """
sde 0GBI 1 Small distance emphasis
lde MB4I 1 Large distance emphasis
lgze S1RA 1 Low grey level zone emphasis
hgze K26C 1 High grey level zone emphasis
sdlge RUVG 1 Small distance low grey level emphasis
sdhge DKNJ 1 Small distance high grey level emphasis
ldlge A7WM 1 Large distance low grey level emphasis
ldhge KLTH 1 Large distance high grey level emphasis
glnu VFT7 1 Grey level non-uniformity
glnu_norm 7HP3 1 Normalised grey level non-uniformity
zdnu V294 1 Zone distance non-uniformity
zdnu_norm IATH 1 Normalised zone distance non-uniformity
z_perc VIWW 1 Zone percentage
gl_var QK93 1 Grey level variance
zd_var 7WT1 1 Zone distance variance
zd_entr GBDU 1 Zone distance entropy
"""
_TONE_DIFFERENCE = """
coarseness QCDE 1 Coarseness
contrast 65HE 1 Contrast
busyness NQ30 1 Busyness
complexity HDEZ 1 Complexity
strength 1X9X 1 Strength
"""
_DEPENDENCE = """
lde SODN 1 Low dependence emphasis
hde IMOQ 1 High dependence emphasis
lgce TL9H 1 Low grey level count emphasis
hgce OAE7 1 High grey level count emphasis
ldlge EQ3F 1 Low dependence low grey level emphasis
ldhge JA6D 1 Low dependence high grey level emphasis
hdlge NBZI 1 High dependence low grey level emphasis
hdhge 9QMG 1 High dependence high grey level emphasis
glnu FP8K 1 Grey level non-uniformity
glnu_norm 5SPA 1 Normalised grey level non-uniformity
dcnu Z87G 1 Dependence count non-uniformity
dcnu_norm OKJI 1 Normalised dependence count non-uniformity
dc_perc 6XV8 1 Dependence count percentage
gl_var 1PFV 1 Grey level variance
dc_var DNX2 1 Dependence count variance
dc_entr FCBV 1 Dependence count entropy
dc_energy CAS9 1 Dependence count energy
"""


def _features(prefix: str, family: str, rows: str, aggregations: tuple[str, ...] = ("",)) -> tuple[Feature, ...]:
    features = []
    for aggregation in aggregations:
        for row in rows.strip().splitlines():
            tag, code, unit, display = row.split(" ", 3)
            name = "_".join(part for part in (prefix, tag, aggregation) if part)
            features.append(
                Feature(
                    name,
                    Code(IBSI, code, display),
                    unit.replace("HU", HU),
                    family,
                    compliant=True,
                    aggregation=aggregation,
                )
            )
    return tuple(features)


MORPHOLOGICAL = _features("morph", MORPHOLOGY, _MORPHOLOGY)
LOCAL = _features("loc", LOCAL_INTENSITY, _LOCAL)
STATISTICAL = _features("stat", STATISTICS, _STATISTICS)
FRACTIONS = _features("ivh", VOLUME_HISTOGRAM, _VOLUME_HISTOGRAM)
TEXTURE = (
    *_features("ih", HISTOGRAM, _HISTOGRAM),
    *_features("cm", COOCCURRENCE, _COOCCURRENCE, DIRECTIONAL),
    *_features("rlm", RUN_LENGTH, _RUN_LENGTH, DIRECTIONAL),
    *_features("szm", SIZE_ZONE, _SIZE_ZONE, UNDIRECTED),
    *_features("dzm", DISTANCE_ZONE, _DISTANCE_ZONE, UNDIRECTED),
    *_features("ngt", TONE_DIFFERENCE, _TONE_DIFFERENCE, UNDIRECTED),
    *_features("ngl", DEPENDENCE, _DEPENDENCE, UNDIRECTED),
)
"""What the model `radiomics_texture` returns, in the order of its output `features`."""
HOST = ("morph_diam", "morph_vol_dens_conv_hull", "morph_area_dens_conv_hull", "morph_moran_i", "morph_geary_c")
"""What is measured outside the graphs, with local intensity: what needs a hull, or all pairs of voxels."""
REGION = tuple(f for f in (*MORPHOLOGICAL, *STATISTICAL, *FRACTIONS) if f.name not in HOST)
"""What the model `radiomics_region` returns, in the order of its output `features`."""
FEATURES: tuple[Feature, ...] = (*MORPHOLOGICAL, *LOCAL, *STATISTICAL, *FRACTIONS, *TEXTURE)
"""All of them."""
