"""`radiomics_texture`: all features of a region's discretised intensities, in double precision.

Inputs: `levels` INT32 [z, y, x], a box around the region, its levels from 1 and 0 outside; `zones_2d` and `zones_3d`
INT32 [zones, 4], the connected voxels of one level in each slice and in the volume: slice in the box (0 for those of
the volume), level, size in voxels, and least distance from the region's edge in voxels, from 1.

Output: `features` FP64 [K] in the order of `domain.ibsi_features.TEXTURE`.

What has no value is NaN: all of an empty region, co-occurrence and tone differences where no voxel has a neighbour.
"""

from __future__ import annotations

import numpy as np
import spox.opset.ai.onnx.v17 as op
from onnx import ModelProto
from spox import Tensor, Var, argument, build

from auscult.domain.ibsi import HISTOGRAM
from auscult.domain.ibsi_features import TEXTURE
from auscult.models.metadata import describe
from auscult.models.radiomics import cooccurrence, neighbourhoods
from auscult.models.radiomics.aggregation import averaged, directional, stack, undirected
from auscult.models.radiomics.emphases import emphases
from auscult.models.radiomics.intensities import level_histogram
from auscult.models.radiomics.lattice import Lattice
from auscult.models.radiomics.runs import runs
from auscult.models.radiomics.zones import Zones, zones
from auscult.models.real import Real


def author() -> ModelProto:
    """Return the graph."""
    inputs = {
        "levels": argument(Tensor(np.int32, ("z", "y", "x"))),
        "zones_2d": argument(Tensor(np.int32, ("zones in slices", 4))),
        "zones_3d": argument(Tensor(np.int32, ("zones", 4))),
    }
    return describe(
        build(inputs, {"features": _features(**inputs)}),
        text="Intensity histogram and texture matrices of a region, as the IBSI defines them.",
        features=",".join(feature.name for feature in TEXTURE),
        ibsi_codes=",".join(feature.code.code for feature in TEXTURE),
        units=",".join(feature.unit for feature in TEXTURE),
    )


def _features(*, levels: Var, zones_2d: Var, zones_3d: Var) -> Var:
    lattice = Lattice.of(levels)
    grey = lattice.grey
    pairs = list(lattice.pairs())
    histogram = level_histogram(lattice)
    adjacent = directional(*cooccurrence.cooccurrences(lattice, [ahead for ahead, _ in pairs]))
    in_plane, volume, lengths = runs(lattice)
    run_matrices = directional(in_plane, volume)
    sizes, distances = zones(lattice, *(op.cast(each, to=np.int64) for each in (zones_2d, zones_3d)))
    beside, around = neighbourhoods.neighbours(lattice, pairs)
    tones = undirected(*(neighbourhoods.tone_differences(lattice, each) for each in (beside, around)))
    depending = undirected(*(neighbourhoods.dependences(lattice, each) for each in (beside, around)))
    dependences = Real.constant(np.arange(1, neighbourhoods.MOST + 1))

    def of_zones(family: Zones) -> Var:
        return averaged(
            family.matrices, lambda stacked: emphases(stacked, family.quality, grey, stack(family.voxels))[:-1]
        )

    return op.concat(
        [
            *(op.reshape(histogram[name].var, op.const([1])) for name in _names(HISTOGRAM)),
            averaged(adjacent, lambda stacked: cooccurrence.features(stacked, grey)),
            averaged(
                run_matrices, lambda stacked: emphases(stacked, lengths, grey, (stacked.sum(1) * lengths).sum(1))[:-1]
            ),
            of_zones(sizes),
            of_zones(distances),
            averaged(tones, lambda stacked: neighbourhoods.tone_features(stacked, grey)),
            averaged(depending, lambda stacked: emphases(stacked, dependences, grey, stacked.sum(1, 2))),
        ],
        axis=0,
    )


def _names(family: str) -> list[str]:
    return [feature.name.partition("_")[2] for feature in TEXTURE if feature.family == family]
