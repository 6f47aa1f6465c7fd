"""Triton's classification: the highest elements of an output, as text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auscult.inference.classification import classified


def test_highest_come_first_with_their_labels() -> None:
    """`value:index:label`, a row for each of the batch; an index without a label has none."""
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.25]], np.float32)
    assert classified(scores, 2, ["solid", "part-solid"], batched=True).tolist() == [
        ["0.700000:1:part-solid", "0.200000:2"],
        ["0.500000:0:solid", "0.500000:1:part-solid"],
    ]


def test_without_a_batch_there_is_one_row_of_all_elements() -> None:
    """Any shape is flattened; what is not a number comes last; more than there are gives all."""
    scores = np.array([[np.nan, -np.inf], [2.0, 1.0]])
    assert classified(scores, 9, (), batched=False).tolist() == ["2.000000:2", "1.000000:3", "nan:0", "-inf:1"]


@pytest.mark.parametrize("kind", [np.int8, np.uint64, np.float16, np.int64])
@given(data=st.data())
def test_order_is_that_of_a_stable_sort(kind: Any, data: st.DataObject) -> None:
    """For any numbers, the extremes of their type among them."""
    limits = np.finfo(kind) if np.dtype(kind).kind == "f" else np.iinfo(kind)
    values = data.draw(st.lists(st.sampled_from([limits.min, limits.max, kind(0), kind(1), kind(2)]), max_size=9))
    array = np.array(values, kind)
    expected = sorted(range(len(array)), key=lambda index: (-array[index].item(), index))
    texts = classified(array, len(array), (), batched=False)
    assert [int(text.partition(":")[2]) for text in texts] == expected
