"""What a parameter file says: the image-processing chain, which features are wanted, and what the intensities are.

`parameters.yaml` beside this file is the documented schema, and holds the defaults.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from auscult.domain import ibsi, ibsi_features
from auscult.domain.ibsi import Feature
from auscult.platform.errors import RefuseToStart
from auscult.radiomics.chain import Chain, invalid
from auscult.radiomics.pyradiomics import is_pyradiomics, translation

Family = Literal[
    "morphology",
    "local_intensity",
    "statistics",
    "histogram",
    "volume_histogram",
    "glcm",
    "glrlm",
    "glszm",
    "gldzm",
    "ngtdm",
    "ngldm",
]
Aggregation = Literal["2D_avg", "2D_comb", "2_5D_avg", "2_5D_comb", "3D_avg", "3D_comb", "2D", "2_5D", "3D"]
FAMILIES: dict[Family, str] = {
    "morphology": ibsi.MORPHOLOGY,
    "local_intensity": ibsi_features.LOCAL_INTENSITY,
    "statistics": ibsi.STATISTICS,
    "histogram": ibsi.HISTOGRAM,
    "volume_histogram": ibsi_features.VOLUME_HISTOGRAM,
    "glcm": ibsi_features.COOCCURRENCE,
    "glrlm": ibsi_features.RUN_LENGTH,
    "glszm": ibsi_features.SIZE_ZONE,
    "gldzm": ibsi_features.DISTANCE_ZONE,
    "ngtdm": ibsi_features.TONE_DIFFERENCE,
    "ngldm": ibsi_features.DEPENDENCE,
}
TEMPLATE = Path(__file__).with_name("parameters.yaml")


class Parameters(Chain, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a parameter file says."""

    intensity_mask: Literal["resegmented"] = "resegmented"
    cooccurrence_distance: Literal[1] = 1
    distance_weighting: Literal["none"] = "none"
    tone_difference_distance: Literal[1] = 1
    dependence_distance: Literal[1] = 1
    dependence_coarseness: Literal[0] = 0
    families: tuple[Family, ...] = get_args(Family)
    aggregations: tuple[Aggregation, ...] = get_args(Aggregation)
    intensity_unit: str | None = None
    """UCUM; None: that of a DICOM series (SUVbw for PET, a number without unit for MR), else HU. Where it is `Bq/ml`,
    PET is read in it."""

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        super().__post_init__()
        if not self.features():
            raise invalid("families and aggregations leave no feature")

    def features(self) -> tuple[Feature, ...]:
        """Return the features that are wanted, in the order of the table."""
        families = {FAMILIES[family] for family in self.families}
        return tuple(
            feature
            for feature in ibsi_features.FEATURES
            if feature.family in families and (not feature.aggregation or feature.aggregation in self.aggregations)
        )

    def settings(self) -> str:
        """Return how values are computed, as JSON: all but which of them are wanted."""
        said = msgspec.to_builtins(self)
        for name in ("families", "aggregations", "intensity_unit"):
            del said[name]
        return msgspec.json.encode(said).decode()

    def unit(self, of_image: str) -> str:
        """Return the intensities' UCUM unit. `of_image`: what the image says; empty where it says nothing."""
        return self.intensity_unit or of_image or ibsi.HU


DEFAULT = Parameters(bin_width=25.0)
"""The image's own voxels, in bins of 25."""


def parse(text: str | bytes) -> Parameters:
    """Read parameters from YAML or JSON; RefuseToStart `radiomics-settings` names the field that is wrong."""
    try:
        content = msgspec.yaml.decode(text)
    except (msgspec.DecodeError, ValueError) as error:
        raise invalid(f"this is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise invalid("a parameter file has `name: value` on each line; `--print-parameters` shows one")
    if is_pyradiomics(content):
        raise invalid(f"this is a parameter file of PyRadiomics. {translation(content)}")
    _check_names(content)
    try:
        return msgspec.convert(content, Parameters)
    except msgspec.ValidationError as error:
        cause = error.__cause__
        raise cause if isinstance(cause, RefuseToStart) else invalid(str(error).replace("`$.", "`")) from None


def read(path: Path) -> Parameters:
    """Read a parameter file; RefuseToStart `radiomics-settings`."""
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise invalid(f"the parameter file cannot be read ({type(error).__name__}); check its path") from None


def _check_names(content: dict[Any, Any]) -> None:
    """Refuse a name that is not one of ours, with the one that was probably meant."""
    known = {_plain(name): name for name in Parameters.__struct_fields__}
    for name in content:
        if name not in known.values():
            near = _nearest(str(name), known)
            raise invalid(f"there is no setting {name!r}{near}; `--print-parameters` shows all")


def _nearest(name: str, known: dict[str, str]) -> str:
    close: Iterable[str] = get_close_matches(_plain(name), known, n=1)
    return "".join(f"; did you mean {known[each]!r}?" for each in close).rstrip("?")


def _plain(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "")
