"""The cards of many patients in one process: memory, snapshot and start.

Run `PYTHONPATH=tests .venv/bin/python -m benchmarks.cards_of_many 1000000 FOLDER`: it fills a store with as many
different cards, saves it, and then starts another process from the snapshot. Each prints one line of JSON.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Delivery
from auscult.bus.topics import FINDINGS
from auscult.cds_hooks import snapshot
from auscult.cds_hooks.store import CardStore
from auscult.domain.codes import DIAMETER
from auscult.domain.finding import Measurement, MeasurementGroup, Result
from auscult.domain.study import StudyRef
from auscult.pathways.lung_nodule import PATHWAY
from auscult.pathways.pathway import Found
from fhir_samples import MEASURES, finding, result

PUBLIC = "https://auscult.example.org"
SIDES, LEVELS = ("right", "left"), ("upper", "middle", "lower")
KINDS = ("solid", "part-solid", "nonsolid")


def some_result(number: int, chance: random.Random) -> Result:
    """Return a result of one nodule in which every number is drawn anew."""
    nodule = finding("nodule-1")
    mean = MeasurementGroup("mean-diameter", DIAMETER, MEASURES, (Measurement("mean-diameter", DIAMETER, 7.3, "mm"),))
    drawn = replace(
        nodule,
        location=f"{chance.choice(SIDES)} lung, {chance.choice(LEVELS)} third",
        appearance=chance.choice(KINDS),
        groups=tuple(
            replace(group, measurements=tuple(replace(m, value=chance.uniform(3, 30)) for m in group.measurements))
            for group in (*nodule.groups, mean)
        ),
        risks=tuple(replace(risk, probability=chance.random()) for risk in nodule.risks),
    )
    return result(
        replace(drawn),
        study=StudyRef("default", f"1.2.840.{number}.{chance.getrandbits(60)}", f"{number:064x}"),
        patient=f"Patient/{chance.getrandbits(64):016x}",
        card=PATHWAY.card(Found((drawn,))),
        recorded=f"2026-0{chance.randint(1, 9)}-1{chance.randint(0, 9)}T10:00:{chance.randint(10, 59)}Z",
        sex=chance.choice(("female", "male")),
        age_band=f"{10 * chance.randint(4, 8)}-",
    )


def megabytes(what: str = "VmRSS") -> float:
    """Return the memory of this process now, or with `VmHWM` at its largest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def fill(count: int, path: Path) -> dict[str, Any]:
    """Fill a store and save it."""
    store, chance, before = CardStore(PUBLIC, path=path), random.Random(1), megabytes()  # noqa: S311 - no secret
    size = 0
    for number in range(count):
        event = CloudEvent(events.RESULT, "/test", b"")
        made = some_result(number, chance)
        store._put(made, Delivery(FINDINGS.name, number % 4, number, "", event))
        if number < 1000:
            store._governed = True
            size += sum(map(len, store.cards("default", made.patient)))
    filled = megabytes()
    began = time.perf_counter()
    saved = snapshot.save(path, store._rendering, store._shelf, {}, store._models)
    return {
        "cards": count,
        "bytes of a card": size // min(count, 1000),
        "MB for the cards": round(filled - before),
        "MB of the process": round(megabytes()),
        "MB of the snapshot": round(saved / 2**20),
        "s to save": round(time.perf_counter() - began, 1),
    }


def start(path: Path) -> dict[str, Any]:
    """Start from the snapshot, and read some cards."""
    before, began, cpu = megabytes(), time.perf_counter(), time.process_time()
    store = CardStore(PUBLIC, path=path)
    store.resume()
    took, spent = time.perf_counter() - began, time.process_time() - cpu
    store._governed = True
    whose = [key.partition(b"|")[2].decode() for key in list(store._shelf._keys)[:20000]]
    began = time.process_time()
    for patient in whose:
        store.cards("default", patient)
    return {
        "cards": len(store._shelf.records),
        "s to start": round(took, 1),
        "s of CPU": round(spent, 1),
        "MB for the cards": round(megabytes() - before),
        "MB of the process at its largest": round(megabytes("VmHWM")),
        "us to look up": round((time.process_time() - began) / len(whose) * 1e6, 1),
    }


if __name__ == "__main__":
    if sys.argv[1] == "start":
        sys.stdout.write(f"{json.dumps(start(Path(sys.argv[2])))}\n")
    else:
        file = Path(sys.argv[2]) / "cards.snapshot"
        sys.stdout.write(f"{json.dumps(fill(int(sys.argv[1]), file))}\n")
        sys.stdout.flush()
        subprocess.run([sys.executable, "-m", "benchmarks.cards_of_many", "start", file], check=True)
