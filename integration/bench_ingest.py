# ruff: noqa: T201
"""Ingest beside Orthanc and dcmtk's storescp: the same files from the same sender, one after the other.

    unshare --net sh -c 'ip link set lo up && exec .venv/bin/python integration/bench_ingest.py [SLICES] [ROUNDS]'

Prints, for each, the time of dcmtk's storescu and the receiver's CPU time (its children's included) per instance;
medians. Ours answers when bytes and event are on the disk; the others leave that to the operating system.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]

from stack.servers import orthanc, storescp  # noqa: E402 - found where the path above says

from auscult.entrypoints.demo.processes import demo_settings, running  # noqa: E402
from dicom_factory import ct_series, encode  # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")


def cpu(pid: int) -> float:
    """Return the seconds of CPU that a process and its living children took."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(map(int, fields[11:13])) / TICK + sum(map(cpu, map(int, children)))


def listening(port: int) -> int:
    """Return the process that listens on `port`."""
    told = subprocess.run(["ss", "-Hltnp", f"sport = :{port}"], capture_output=True, text=True, check=True).stdout
    return int(told.split("pid=")[1].split(",")[0])


@contextmanager
def receivers(folder: Path) -> Iterator[dict[str, tuple[str, int]]]:
    """Run all three; give the AE title and port of each."""
    settings = demo_settings(folder / "home", folder / "models", {})
    with ExitStack() as stack:
        services = stack.enter_context(running(settings, ("listen",)))
        assert list(services.wait_ready(("listen",))) == ["listen"]
        _, orthanc_port = stack.enter_context(orthanc(folder / "orthanc", settings.dicom_port))
        scp, _ = stack.enter_context(storescp(folder / "storescp"))
        yield {
            "Auscult": (settings.ae_title, settings.dicom_port),
            "Orthanc": ("ORTHANC", orthanc_port),
            "storescp": ("MOVED", scp),
        }


def sent(folder: Path, title: str, port: int) -> tuple[float, float]:
    """Send a folder in one association; return seconds, and seconds of the receiver's CPU."""
    pid, begin = listening(port), time.perf_counter()
    spent = cpu(pid)
    subprocess.run(["storescu", "-R", "+sd", "-aec", title, "127.0.0.1", str(port), str(folder)], check=True)
    return time.perf_counter() - begin, cpu(pid) - spent


def main(slices: int = 100, rounds: int = 5) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name, receivers(Path(name)) as there:
        found: dict[str, list[tuple[float, float]]] = {receiver: [] for receiver in there}
        for number in range(rounds + 1):
            study = Path(name) / f"study-{number}"
            study.mkdir()
            for index, dataset in enumerate(ct_series((slices, 512, 512))):
                (study / f"{index}.dcm").write_bytes(encode(dataset))
            for receiver, (title, port) in there.items():
                found[receiver].append(sent(study, title, port))
        for receiver, each in found.items():
            seconds, cpu_seconds = (median(values) / slices for values in zip(*each[1:], strict=True))
            rate, spent = 1 / seconds, cpu_seconds * 1e3
            print(f"{receiver:10} {rate:6.0f} instances/s {seconds * 1e3:6.2f} ms, CPU {spent:6.2f} ms")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
