"""Evaluate `lung_nodule_seg` on whole phantoms, as the pathway uses it, and write docs/models/lung_nodule_seg.md.

python scripts/evaluate_nodule_segmentation.py
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from auscult.domain.deadline import Deadline
from auscult.domain.finding import ModelReference
from auscult.domain.study import PatientIdentity, Study, StudyRef
from auscult.domain.volume import Region
from auscult.imaging.phantom import NoduleTruth, Phantom, chest, scan
from auscult.models.segmentation.graph import WEIGHTS, build, load
from auscult.pathways.lung_nodule.lungs import find_lungs
from auscult.pathways.lung_nodule.measure import size
from auscult.pathways.lung_nodule.regions import segmented

SEEDS = range(1, 21)
"""Training's start at 100000."""
PAGE = Path(__file__).parents[1] / "docs" / "models" / "lung_nodule_seg.md"


class Model:
    """The graph in ONNX Runtime, asked as the pathway asks its models; counts the seconds it takes."""

    def __init__(self, weights: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(build(load(weights)).SerializeToString(), options)
        self.seconds: list[float] = []

    def infer(self, model: str, inputs: dict[str, NDArray[Any]], *, deadline: Deadline) -> dict[str, NDArray[Any]]:  # noqa: ARG002
        """Run the one model."""
        began = time.perf_counter()
        (probability,) = self._session.run(None, inputs)
        self.seconds.append(time.perf_counter() - began)
        return {"probability": probability}

    def reference(self, model: str) -> ModelReference:
        """Name the model."""
        return ModelReference(model, "1", "this evaluation")


@dataclass(frozen=True)
class Case:
    """What the model made of one phantom. Without a hit, `dice` is 0 and `error` None."""

    seed: int
    truth: NoduleTruth
    dice: float
    detected: bool
    false_positives: int
    error: float | None
    """Longest axial diameter as measured minus the truth, mm."""


def evaluate(phantom: Phantom, model: Model) -> Case:
    """Scan `phantom`, ask the model as the pathway does, and compare with the truth."""
    volume = scan(phantom)
    truth, known = phantom.region(volume.geometry), phantom.truth
    if known is None:
        raise ValueError("a phantom without nodule has nothing to compare with")
    ref = StudyRef("evaluation", volume.series_uid, "")
    study = Study(ref, PatientIdentity("", "", None, ""), volume, (), None)
    found = segmented(study, find_lungs(volume), model, Deadline.after(600))
    overlaps = [overlap(region, truth) for region in found]
    hits = [shared for shared in overlaps if shared]
    if not hits:
        return Case(phantom.seed, known, 0.0, detected=False, false_positives=len(found), error=None)
    best = int(np.argmax(overlaps))
    region = found[best]
    dice = 2 * overlaps[best] / (np.count_nonzero(region.mask) + np.count_nonzero(truth.mask))
    return Case(
        phantom.seed,
        known,
        dice,
        detected=True,
        false_positives=len(found) - len(hits),
        error=size(region).longest - known.diameter_mm,
    )


def overlap(a: Region, b: Region) -> int:
    """Return how many voxels two regions of one grid share."""
    low = np.maximum(a.offset, b.offset)
    high = np.minimum(np.add(a.offset, a.mask.shape), np.add(b.offset, b.mask.shape))
    if (high <= low).any():
        return 0
    parts = [
        region.mask[tuple(slice(*span) for span in zip(low - region.offset, high - region.offset, strict=True))]
        for region in (a, b)
    ]
    return int(np.count_nonzero(parts[0] & parts[1]))


def page(cases: list[Case], model: Model, threads: int) -> str:
    """Return the report in Markdown."""
    found = [case for case in cases if case.detected]
    errors = np.abs([case.error for case in found if case.error is not None])
    rows = [
        f"| {case.seed} | {case.truth.type.replace('_', '-')} | {case.truth.diameter_mm:.1f} | {case.truth.side} "
        f"{'upper' if case.truth.upper_lobe else 'lower'} | {'yes' if case.detected else '**no**'} | "
        f"{case.dice:.2f} | {'' if case.error is None else f'{case.error:+.1f}'} | {case.false_positives} |"
        for case in cases
    ]
    kinds = []
    for kind in ("solid", "part_solid", "nonsolid"):
        group = [case for case in cases if case.truth.type == kind]
        hits = sum(case.detected for case in group)
        mean = f"{np.mean([case.dice for case in group]):.2f}" if group else ""
        kinds.append(f"| {kind.replace('_', '-')} | {len(group)} | {hits} | {mean} |")
    return TEMPLATE.format(
        count=len(cases),
        dice=np.mean([case.dice for case in cases]),
        dice_found=np.mean([case.dice for case in found]) if found else 0.0,
        hits=len(found),
        rate=len(found) / len(cases),
        false_positives=sum(case.false_positives for case in cases) / len(cases),
        error=errors.mean() if len(errors) else float("nan"),
        worst=errors.max() if len(errors) else float("nan"),
        seconds=np.median(model.seconds),
        threads=threads,
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        rows="\n".join(rows),
        kinds="\n".join(kinds),
    )


TEMPLATE = """# lung_nodule_seg

A small 3-D U-Net that outlines lung nodules in a chest CT, so that the product shows its whole path without anything
but what is in this repository. **It was trained and tested on the product's own synthetic phantoms only. It has seen
no patient, and nothing is claimed about patients.** Phantoms have no disease but the one nodule: no scars, emphysema,
consolidation, lymph nodes or motion, and their vessels are simpler than real ones. On real scans it will miss nodules
and outline things that are none. Sites bring a validated model, or a contour drawn by a person, in its place.

## How it does on {count} phantoms that it was not trained on

Seeds 1 to {count}, whole chest at 1.5 x 0.88 x 0.88 mm, edge-enhancing kernel, noise of 25 HU; asked and read as the
`lung_nodule` pathway does: lungs' box, probability at least one half, connected parts of at least 14 mm3.

| measure | value |
| --- | --- |
| nodules found | {hits} of {count} ({rate:.0%}) |
| Dice, mean over all {count} (0 where missed) | {dice:.2f} |
| Dice, mean over those found | {dice_found:.2f} |
| false findings per scan | {false_positives:.2f} |
| error of the longest axial diameter, mean of absolute values | {error:.1f} mm (greatest {worst:.1f} mm) |
| seconds per scan, median, {threads} threads | {seconds:.1f} |
| peak memory of the whole evaluation | {memory:.1f} GiB |

| type | phantoms | found | mean Dice |
| --- | --- | --- | --- |
{kinds}

| seed | type | diameter, mm | place | found | Dice | error of diameter, mm | false findings |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

This page is written by `python scripts/evaluate_nodule_segmentation.py`. With {count} phantoms of one generator, the
figures say that the model learned the phantom, not more.

## How it is made

`python scripts/train_nodule_segmentation.py` (dependency group `train`: JAX on the CPU) renders parts of 700 chests,
seeds from 100000, each with random voxel size, kernel and noise: half about the nodule, half about vessels, pleura
and diaphragm, of which those on which the network errs are drawn more often. It trains with soft Dice plus
cross-entropy and Adam, and writes `services/auscult/models/segmentation/weights.npz`; all hyper-parameters stand at
the script's head. `graph.py` makes the ONNX model of it: `image` INT16 [z, y, x] in HU and `spacing` FP32 [3] in mm
in, `probability` UINT8 on the same grid out. Resampling to 1.25 mm and back is part of the graph.
"""


def main() -> None:
    """Evaluate and write the page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--weights", type=Path, default=WEIGHTS)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--out", type=Path, default=PAGE)
    options.add_argument("--first", type=int, default=SEEDS.start, help="other phantoms than the published ones")
    chosen = options.parse_args()
    model = Model(chosen.weights, chosen.threads)
    cases = []
    for seed in range(chosen.first, chosen.first + len(SEEDS)):
        cases.append(evaluate(chest(seed), model))
        print(cases[-1], flush=True)
    chosen.out.write_text(page(cases, model, chosen.threads), encoding="utf-8")
    print(chosen.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
