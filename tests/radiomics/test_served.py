"""Features come from the inference service as from the models in this process."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from auscult.domain.deadline import Deadline
from auscult.entrypoints.demo.processes import free_port
from auscult.inference.client import InferenceClient
from auscult.inference.server import serve
from auscult.platform.settings import Settings
from auscult.radiomics.chain import Chain
from auscult.radiomics.measure import Infer, measure

pytestmark = pytest.mark.golden

IMAGE = np.random.default_rng(4).integers(-200, 300, (6, 7, 8)).astype(np.int16)
MASK = np.ones(IMAGE.shape, bool)
MASK[:2, :3] = False
SPACING = np.array([2.0, 1.0, 1.0])
CHAIN = Chain(bin_width=25)


def test_the_service_gives_the_same_features(infer: Infer, repository: Path) -> None:
    """A pathway asks over gRPC, with its deadline, and gets every feature; threads may add up in another order."""
    address = f"127.0.0.1:{free_port()}"
    settings = Settings(model_repository=repository, inference_listen=address, inference_threads=1)
    ready, stop = threading.Event(), threading.Event()
    server = threading.Thread(target=serve, args=(settings, stop), kwargs={"on_ready": ready.set})
    server.start()
    try:
        assert ready.wait(30)
        with InferenceClient(address, repository) as client:
            deadline = Deadline.after(60)
            served = measure(
                IMAGE, MASK, SPACING, CHAIN, lambda name, inputs: client.infer(name, inputs, deadline=deadline)
            )
    finally:
        stop.set()
        server.join()
    assert served == pytest.approx(measure(IMAGE, MASK, SPACING, CHAIN, infer), rel=1e-12, nan_ok=True)
