"""Triton's classification extension: of an output, the elements that are highest instead of all elements.

They come as BYTES `value:index` or `value:index:label`, highest first, in shape (batch, count), or (count) where
there is no batch dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.inference.model_config import Signature
from auscult.inference.parameters import InvalidRequestError
from auscult.inference.pb import open_inference_grpc_pb2 as pb

PARAMETER = "classification"


def classes_asked(output: pb.ModelInferRequest.InferRequestedOutputTensor, signature: Signature) -> int:
    """Return how many elements of an output are asked for; 0: the output itself. InvalidRequestError."""
    if not output.parameters or PARAMETER not in output.parameters:
        return 0
    given = output.parameters[PARAMETER]
    count = int(given.int64_param or given.uint64_param)
    if given.WhichOneof("parameter_choice") not in ("int64_param", "uint64_param") or count < 0:
        raise InvalidRequestError(f"output {output.name!r}: parameter {PARAMETER}: a number of classes is expected")
    datatype = next(spec.datatype.name for spec in signature.outputs if spec.name == output.name)
    if count and datatype in ("BYTES", "BOOL"):
        raise InvalidRequestError(f"output {output.name!r}: {datatype} has no classification, only numbers have")
    return count


def classified(array: NDArray[Any], count: int, labels: Sequence[str], *, batched: bool) -> NDArray[np.object_]:
    """Return the `count` highest elements of each of the batch as text; all of them where there are fewer."""
    rows = array.reshape(len(array), -1) if batched else array.reshape(1, -1)
    count = min(count, rows.shape[1])
    # Sorted from behind, so that of equal elements the first comes first. What is not a number comes last.
    keys = np.where(np.isnan(rows), -np.inf, rows) if rows.dtype.kind == "f" else rows
    order = rows.shape[1] - 1 - np.argsort(keys[:, ::-1], axis=1, kind="stable")[:, ::-1]
    texts = np.empty((len(rows), count), np.object_)
    for row, indices in enumerate(order[:, :count]):
        for column, index in enumerate(indices):
            value = rows[row, index]
            number = f"{value:f}" if rows.dtype.kind == "f" else str(int(value))
            label = f":{labels[index]}" if index < len(labels) and labels[index] else ""
            texts[row, column] = f"{number}:{index}{label}"
    return texts if batched else texts[0]
