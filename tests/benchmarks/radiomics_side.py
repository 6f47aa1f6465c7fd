"""One side of the radiomics benchmark, in a process and an environment of its own: a line in, CPU milliseconds out.

radiomics_side.py (kernels | numpy | models | pyradiomics | pictologics) (all | texture); a line: IMAGE, a tab, MASK.
On one thread; what a side loads at its first region it has loaded before, and none is told of.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BIN = 25


def ours(way: str, scope: str) -> Callable[[str, str], int]:
    """Return what reads, crops and measures a region, and says how many features that are."""
    from auscult.imaging.files import read_pair
    from auscult.radiomics import counting, native
    from auscult.radiomics.chain import Chain
    from auscult.radiomics.measure import measure
    from auscult.radiomics.process import process
    from auscult.radiomics.texture import features

    chain = Chain(bin_width=BIN)
    infer = None
    if way == "models":
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        sessions = {
            name: ort.InferenceSession(f".auscult/models/{name}/1/model.onnx", options)
            for name in ("radiomics_region", "radiomics_texture")
        }

        def infer(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
            return {"features": sessions[name].run(["features"], inputs)[0]}
    elif way == "numpy":
        native.available = lambda: False
    count = counting.count if way == "numpy" else native.count

    def run(image: str, mask: str) -> int:
        pair = read_pair(Path(image), Path(mask))
        if scope == "all":
            return len(measure(pair.image, pair.mask, pair.spacing, chain, infer))
        region = process(pair.image, pair.mask, pair.spacing, chain)
        return len(features(count(region.levels[region.box], region.morphology[region.box])))

    return run


def pyradiomics(scope: str) -> Callable[[str, str], int]:
    """Return the same of PyRadiomics."""
    import SimpleITK

    from radiomics import featureextractor, setVerbosity

    setVerbosity(50)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    extractor = featureextractor.RadiomicsFeatureExtractor(binWidth=BIN)
    extractor.disableAllFeatures()
    for name in ("glcm", "glrlm", "glszm", "ngtdm", "gldm", *(("shape", "firstorder") if scope == "all" else ())):
        extractor.enableFeatureClassByName(name)

    def run(image: str, mask: str) -> int:
        return sum(name.startswith("original") for name in extractor.execute(image, mask))

    return run


def pictologics() -> Callable[[str, str], int]:
    """Return the texture features of Pictologics, which reads a region by nibabel as the others do."""
    import nibabel
    import numpy as np
    from pictologics.features.texture import calculate_all_texture_features

    def run(image: str, mask: str) -> int:
        voxels, inside = (np.asarray(nibabel.load(path).dataobj) for path in (image, mask))
        box = tuple(slice(each.min(), each.max() + 1) for each in np.nonzero(inside))
        voxels, inside = voxels[box], inside[box]
        levels = np.where(inside, (voxels - voxels[inside > 0].min()) // BIN + 1, 0)
        return len(calculate_all_texture_features(levels, inside, int(levels.max())))

    return run


def main(side: str, scope: str) -> None:
    """Answer until the input ends."""
    makers: dict[str, Callable[[], Any]] = {"pyradiomics": lambda: pyradiomics(scope), "pictologics": pictologics}
    run = makers.get(side, lambda: ours(side, scope))()
    for line in sys.stdin:
        begin = time.process_time()
        number = run(*line.strip().split("\t"))
        print((time.process_time() - begin) * 1e3, number, flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main(*sys.argv[1:])
