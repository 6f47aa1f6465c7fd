"""A session on a GPU: tensors bound to it, the warm-up's shapes as CUDA graphs, the CPU where memory runs out."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from auscult.inference.config_checks import WrongModelError
from auscult.inference.providers import CUDA, ON_CPU, Devices, Plan

_LOG = logging.getLogger("auscult.inference")

_OUT_OF_MEMORY = re.compile(
    r"Failed to allocate memory for requested buffer|Available memory of \d+ is smaller than requested bytes"
    r"|CUDA failure 2\b|out of memory|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED"
)
"""How ONNX Runtime and CUDA's libraries say it; there is no class or code of its own (onnxruntime issue 16307)."""

_NO_GRAPH = "-1"
"""The `gpu_graph_id` of a run that is neither captured nor replayed."""

Feed = Mapping[str, NDArray[Any]]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class DeviceSession:
    """A session of ONNX Runtime's on a GPU, which runs as one on the CPU does.

    `on_cpu`: makes the session that takes over where the GPU's memory does not suffice; it is made once, when it is
    first needed. `device`: as ONNX Runtime names it. `graphs`: whether `capture` does anything.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        on_cpu: Callable[[], ort.InferenceSession],
        *,
        device: tuple[str, int] = ("cuda", 0),
        graphs: bool = False,
    ) -> None:
        self._session, self._on_cpu = session, on_cpu
        self._device, self._graphs = device, graphs
        self._captured: dict[Shapes, _Captured] = {}
        self._fallback: ort.InferenceSession | None = None
        self._making = threading.Lock()
        self._last = threading.local()

    @property
    def fell_back(self) -> bool:
        """Whether this thread's last run was the CPU's, because the GPU's memory did not suffice."""
        return getattr(self._last, "fell_back", False)

    def get_inputs(self) -> Sequence[Any]:
        """Return the graph's inputs."""
        inputs: Sequence[Any] = self._session.get_inputs()
        return inputs

    def get_outputs(self) -> Sequence[Any]:
        """Return the graph's outputs."""
        outputs: Sequence[Any] = self._session.get_outputs()
        return outputs

    def get_providers(self) -> Sequence[str]:
        """Return the execution providers that run the graph."""
        providers: Sequence[str] = self._session.get_providers()
        return providers

    def run(self, names: Sequence[str], feed: Feed, options: ort.RunOptions | None = None) -> list[NDArray[Any]]:
        """Return the outputs of that name; on the CPU, in the same call, where the GPU's memory runs out."""
        self._last.fell_back = False
        options = options or ort.RunOptions()
        try:
            if captured := self._captured.get(_shapes(feed)):
                return captured.replay(names, feed, options)
            return self._bound(names, feed, options)
        except Exception as error:
            if not _OUT_OF_MEMORY.search(str(error)):
                raise
        _LOG.warning("the GPU's memory did not suffice for a run; the CPU does it")
        self._last.fell_back = True
        outputs: list[NDArray[Any]] = self._cpu().run(list(names), dict(feed), options)
        return outputs

    def capture(self, feed: Feed) -> None:
        """Keep runs with tensors of these shapes as a CUDA graph, if that is asked for."""
        if not self._graphs or _shapes(feed) in self._captured:
            return
        names = [output.name for output in self._session.get_outputs()]
        shapes = [output.shape for output in self._bound(names, feed, ort.RunOptions())]
        number = len(self._captured) + 1
        captured = _Captured(self._session, self._device, number, feed, dict(zip(names, shapes, strict=True)))
        captured.replay(names, feed, ort.RunOptions())
        self._captured[_shapes(feed)] = captured

    def _bound(self, names: Sequence[str], feed: Feed, options: ort.RunOptions) -> list[NDArray[Any]]:
        binding = self._session.io_binding()
        for name, array in feed.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in names:
            binding.bind_output(name, *self._device)
        if self._graphs:
            options.add_run_config_entry("gpu_graph_id", _NO_GRAPH)
        self._session.run_with_iobinding(binding, options)
        outputs: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
        return outputs

    def _cpu(self) -> ort.InferenceSession:
        with self._making:
            if self._fallback is None:
                self._fallback = self._on_cpu()
            return self._fallback


def opened(
    make: Callable[[Plan], ort.InferenceSession], planned: Plan, devices: Devices
) -> ort.InferenceSession | DeviceSession:
    """Return a session on the device that was planned; it takes its share of the device's memory along.

    WrongModelError where that is not left, or the device cannot be used.
    """
    if planned.device is None:
        return make(planned)
    arena = planned.arena if devices.memory else 0
    devices.taken.take(planned.device, arena, devices.memory)
    session = None
    try:
        session = make(planned)
    finally:
        if session is None:
            devices.taken.give_back(planned.device, arena)
    devices.taken.give_back_with(session, planned.device, arena)
    # ONNX Runtime goes on without a provider that it cannot start.
    if CUDA not in session.get_providers():
        raise WrongModelError("ONNX Runtime cannot start CUDA; are its libraries and cuDNN those that it needs?")
    return DeviceSession(session, lambda: make(ON_CPU), device=("cuda", planned.device), graphs=planned.graphs)


class _Captured:
    """One shape's run as a CUDA graph: it has tensors of its own on the device, whose places never change."""

    def __init__(
        self,
        session: ort.InferenceSession,
        device: tuple[str, int],
        number: int,
        feed: Feed,
        shapes: Mapping[str, Sequence[int]],
    ) -> None:
        self._session, self._number = session, str(number)
        self._replaying = threading.Lock()
        self._inputs = {
            name: ort.OrtValue.ortvalue_from_numpy(np.array(array, order="C"), *device)
            for name, array in feed.items()
        }
        types = {output.name: output.type for output in session.get_outputs()}
        self._outputs = {
            name: ort.OrtValue.ortvalue_from_shape_and_type(list(shape), _NUMPY[types[name]], *device)
            for name, shape in shapes.items()
        }
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def replay(self, names: Sequence[str], feed: Feed, options: ort.RunOptions) -> list[NDArray[Any]]:
        """Run the graph on these tensors: one run at a time."""
        with self._replaying:
            for name, array in feed.items():
                self._inputs[name].update_inplace(np.ascontiguousarray(array))
            options.add_run_config_entry("gpu_graph_id", self._number)
            self._session.run_with_iobinding(self._binding, options)
            return [self._outputs[name].numpy().copy() for name in names]


_NUMPY = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
"""What a CUDA graph can hold."""


def _shapes(feed: Feed) -> Shapes:
    return tuple(sorted((name, array.shape) for name, array in feed.items()))
