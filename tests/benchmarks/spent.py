"""Where the time of one study went, from its trace."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from auscult.entrypoints.timeline import SpanRecord, budget

BETWEEN = "between spans: on the bus, in a socket, waiting for a core"


def spent(records: Sequence[SpanRecord]) -> dict[str, float]:
    """Give each moment from the last stored instance to the answered hook to the innermost span then open.

    Returns ms by span name; they add up to the total. Of spans open at one time the one that began last is taken.
    """
    begin = max(record.end for record in records if record.name.startswith("C-STORE"))
    finish = max(record.end for record in records if record.name.startswith("hook "))
    edges = {edge for record in records for edge in (record.start, record.end) if begin < edge < finish}
    shares: Counter[str] = Counter()
    for left, right in pairwise(sorted({begin, finish} | edges)):
        opened = [record for record in records if record.start <= left and record.end >= right]
        owner = max(opened, key=lambda record: record.start).name if opened else BETWEEN
        shares[owner] += right - left
    return {name: share / 1e6 for name, share in shares.items()}


def summary(traces: Sequence[Sequence[SpanRecord]], found: Sequence[int]) -> dict[str, Any]:
    """Return medians in ms over several studies: total, models, services, and by span name, the largest first.

    `found`: findings in each.
    """
    budgets = [told for told in (budget(list(records)) for records in traces) if told is not None]
    shares: defaultdict[str, list[float]] = defaultdict(list)
    for records in traces:
        for name, share in spent(records).items():
            shares[name].append(share)
    # A span that a study does not have took none of its time.
    where = {name: median(given + [0.0] * (len(traces) - len(given))) for name, given in shares.items()}
    return {
        "studies": len(traces),
        "found": median(found),
        "total": median(told.total for told in budgets),
        "models": median(told.models for told in budgets),
        "services": median(told.services for told in budgets),
        "most": max(told.services for told in budgets),
        "where": sorted(where.items(), key=lambda item: -item[1]),
    }
