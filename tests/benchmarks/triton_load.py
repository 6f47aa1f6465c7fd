"""The same load on any server of the protocol, from an unmodified tritonclient; run by the environment that has it.

python triton_load.py TARGET MODEL SHAPE CONCURRENCY REQUESTS [in | inout]

Sends FP32 input `x` of SHAPE (a comma between dimensions) and reads output `y`. `in`: the input lies in system shared
memory; `inout`: the output goes there, too. Waits for a line on standard input, then measures, and prints JSON: the
seconds for all requests, and their latencies in ms.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import shared_memory

WARM = 20


@contextmanager
def region(name: str, array: np.ndarray) -> Iterator[Any]:
    """Make a shared memory region that holds `array`."""
    made = shared_memory.create_shared_memory_region(name, name, array.nbytes)
    try:
        shared_memory.set_shared_memory_region(made, [array])
        yield made
    finally:
        shared_memory.destroy_shared_memory_region(made)


async def main(target: str, model: str, shape: list[int], *, concurrency: int, requests: int, shared: str) -> None:
    """Send `requests` after some that are not measured, `concurrency` at once."""
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    names = {way: f"load-{os.getpid()}-{way}" for way in ("in", "out")}
    async with triton.InferenceServerClient(target) as client:
        with region(names["in"], data), region(names["out"], data):
            for name in names.values():
                if shared:
                    await client.register_system_shared_memory(name, name, data.nbytes)

            async def ask() -> float:
                start = time.perf_counter()
                x, y = triton.InferInput("x", shape, "FP32"), triton.InferRequestedOutput("y")
                if shared:
                    x.set_shared_memory(names["in"], data.nbytes)
                else:
                    x.set_data_from_numpy(data)
                if shared == "inout":
                    y.set_shared_memory(names["out"], data.nbytes)
                answer = await client.infer(model, [x], outputs=[y])
                if shared != "inout":
                    answer.as_numpy("y")
                return (time.perf_counter() - start) * 1e3

            async def several(count: int) -> list[float]:
                return [await ask() for _ in range(count)]

            await several(WARM)
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            sys.stdin.readline()
            start = time.perf_counter()
            latencies = await asyncio.gather(*(several(requests // concurrency) for _ in range(concurrency)))
            seconds = time.perf_counter() - start
            if shared:
                await client.unregister_system_shared_memory()
    sys.stdout.write(json.dumps({"seconds": seconds, "ms": sorted(chain.from_iterable(latencies))}) + "\n")


if __name__ == "__main__":
    target, model, shape, concurrency, requests, *shared = sys.argv[1:]
    sizes = [int(size) for size in shape.split(",")]
    asyncio.run(
        main(target, model, sizes, concurrency=int(concurrency), requests=int(requests), shared="".join(shared))
    )
