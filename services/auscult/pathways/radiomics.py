"""Radiomics of a pathway's regions: the IBSI's features, by settings that a site may change and each result keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from auscult.domain.deadline import Deadline
from auscult.domain.finding import MeasurementGroup, ModelReference
from auscult.domain.ibsi_features import TEXTURE
from auscult.domain.radiomics import described
from auscult.domain.volume import Region, Volume
from auscult.pathways.pathway import Models, Pathway
from auscult.platform.errors import RefuseToStart
from auscult.radiomics.measure import MODELS, measure
from auscult.radiomics.parameters import Parameters, read
from auscult.radiomics.peaks import RADIUS

REGION_MODEL, TEXTURE_MODEL = MODELS
_OF_TEXTURE = {feature.name for feature in TEXTURE}


@runtime_checkable
class MeasuresRadiomics(Protocol):
    """A pathway whose radiomics can be configured."""

    radiomics: Parameters

    def measuring(self, radiomics: Parameters) -> Pathway:
        """Return the pathway with other parameters."""


def configured(pathways: Iterable[Pathway], files: Mapping[str, Path]) -> tuple[Pathway, ...]:
    """Return the pathways, with the parameters of `files` by pathway's name; RefuseToStart where that cannot be."""
    found = {pathway.name: pathway for pathway in pathways}
    for name, file in files.items():
        pathway = found.get(name)
        if not isinstance(pathway, MeasuresRadiomics):
            raise RefuseToStart(
                "radiomics-settings",
                f"there is no pathway {name!r} with radiomics; correct AUSCULT_RADIOMICS_PARAMETERS",
            )
        found[name] = pathway.measuring(read(file))
    return tuple(found.values())


def measured(
    volume: Volume, region: Region, parameters: Parameters, models: Models, deadline: Deadline
) -> tuple[MeasurementGroup, ...]:
    """Measure a region through the inference service; TellClinician as `measure`, or where time runs out."""
    references: dict[str, ModelReference] = {name: models.reference(name) for name in MODELS}
    box = _box(volume, region, parameters)
    around = [
        (start - part.start, part.stop - start - size)
        for start, part, size in zip(region.offset, box, region.mask.shape, strict=True)
    ]
    values = measure(
        volume.voxels[box],
        np.pad(region.mask, around),
        volume.geometry.spacing,
        parameters,
        lambda name, inputs: models.infer(name, inputs, deadline=deadline),
    )
    return described(
        parameters.features(),
        values,
        model=lambda each: references[TEXTURE_MODEL if each.name in _OF_TEXTURE else REGION_MODEL],
        settings=parameters.settings(),
        intensity_unit=parameters.unit(volume.unit),
    )


def _box(volume: Volume, region: Region, parameters: Parameters) -> tuple[slice, ...]:
    """Return what is to be looked at: with the image's own voxels, the region and as far as a local peak reaches.

    An interpolated grid has its centre in the image's, so that all of it counts.
    """
    if any(parameters.spacing):
        return tuple(slice(0, size) for size in volume.geometry.shape)
    margin = np.ceil(RADIUS / volume.geometry.spacing).astype(int) + 1
    return tuple(
        slice(max(0, part.start - int(more)), min(size, part.stop + int(more)))
        for part, more, size in zip(region.box, margin, volume.geometry.shape, strict=True)
    )
