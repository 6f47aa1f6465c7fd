"""Parameter files of PyRadiomics are known, and it is said what their settings are called here.

They are not taken as they are: two settings have no counterpart that gives the same values in every image (bins
begin at multiples of their width there, and interpolation places its grid otherwise), and silence would hide that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

SECTIONS = {"setting", "imageType", "featureClass", "voxelSetting"}
SPLINES = {"nearestneighbor": "nearest", "linear": "linear", "bspline": "cubic", "sitkBSpline": "cubic"}
SPLINES |= {"sitkNearestNeighbor": "nearest", "sitkLinear": "linear", "1": "nearest", "2": "linear", "3": "cubic"}
CLASSES = {
    "firstorder": "statistics, histogram",
    "shape": "morphology",
    "glcm": "glcm",
    "glrlm": "glrlm",
    "glszm": "glszm",
    "gldm": "ngldm",
    "ngtdm": "ngtdm",
}
SAID: dict[str, Callable[[Any], str]] = {
    "binWidth": lambda value: f"bin_width: {_yaml(value)}, with a `resegmentation` that begins at a multiple of it",
    "binCount": lambda value: f"bin_number: {_yaml(value)}",
    "resampledPixelSpacing": lambda value: f"spacing: {_yaml(_reversed(value))}",
    "interpolator": lambda value: f"image_interpolation: {SPLINES.get(str(value), 'nearest, linear or cubic')}",
    "resegmentRange": lambda value: (
        f"resegmentation: {_yaml(value)}, where resegmentMode is absolute; outliers: N, where it is sigma"
    ),
    "label": lambda value: f"--label {value}",
    "distances": lambda value: f"cooccurrence_distance: 1 (instead of {value}; no other is offered)",
    "gldm_a": lambda value: f"dependence_coarseness: 0 (instead of {value}; no other is offered)",
    "weightingNorm": lambda value: f"distance_weighting: none (instead of {value}; no other is offered)",
}
NEEDLESS = {"geometryTolerance", "correctMask", "minimumROIDimensions", "minimumROISize", "padDistance", "preCrop"}
NEEDLESS |= {"additionalInfo", "enableCExtensions", "resegmentMode", "resegmentShape", "symmetricalGLCM", "verbose"}


def is_pyradiomics(content: Mapping[Any, Any]) -> bool:
    """Whether a parameter file has the sections of PyRadiomics."""
    return bool(SECTIONS & content.keys())


def translation(content: Mapping[Any, Any]) -> str:
    """Return what its settings are here, and what has no counterpart."""
    setting = _mapping(content.get("setting"))
    said = [SAID[name](value) for name, value in setting.items() if name in SAID]
    classes = [CLASSES[name] for name in _mapping(content.get("featureClass")) if name in CLASSES]
    if classes:
        said.append(f"families: [{', '.join(classes)}]; aggregations: [3D_avg, 3D]")
    absent = [str(name) for name in setting if name not in SAID and name not in NEEDLESS]
    absent += [f"imageType {name}" for name in _mapping(content.get("imageType")) if name != "Original"]
    here = f" Here: {'; '.join(said)}." if said else ""
    none = f" Without a counterpart: {', '.join(absent)}." if absent else ""
    return f"Write one of this tool's own (`--print-parameters` shows it).{here}{none}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _reversed(value: Any) -> list[Any]:
    """Return the spacing along (z, y, x); 0 keeps an axis there, null here."""
    return [step or None for step in value[::-1]] if isinstance(value, list) else [None] * 3


def _yaml(value: Any) -> str:
    return json.dumps(value, default=str)
