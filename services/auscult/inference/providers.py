"""Which of ONNX Runtime's execution providers runs a model: TensorRT where it is installed, CUDA, or the CPU.

What decides is `AUSCULT_INFERENCE_PROVIDER`, then the model's `config.pbtxt` as Triton reads it: `instance_group`
(KIND_GPU is refused where there is no GPU), `optimization` (`cuda { graphs }`, `execution_accelerators`), and the
parameters `gpu_mem_limit`, `arena_extend_strategy`, `cudnn_conv_algo_search` and `do_copy_in_default_stream`.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import onnxruntime as ort

from auscult.inference.config_checks import WrongModelError
from auscult.inference.pb import model_config_pb2 as pb

Preference = Literal["auto", "tensorrt", "cuda", "cpu"]

TENSORRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"

_STRATEGIES = {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"}
_SEARCHES = {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}
_TENSORRT_OPTIONS = {"max_workspace_size_bytes": "trt_max_workspace_size"}
_PRECISIONS = {"FP16": {"trt_fp16_enable": "1"}, "INT8": {"trt_int8_enable": "1"}, "FP32": {}}


class Taken:
    """Bytes that sessions have taken of each GPU; a session gives them back when it is gone."""

    def __init__(self) -> None:
        self._bytes: dict[int, int] = {}
        self._changing = threading.Lock()

    def take(self, device: int, nbytes: int, of: int) -> None:
        """Take bytes of a device that has `of`; WrongModelError where they are not left."""
        with self._changing:
            before = self._bytes.get(device, 0)
            if before + nbytes > of:
                raise WrongModelError(
                    f"its gpu_mem_limit of {nbytes} bytes is not left on GPU {device}: models hold {before} of "
                    f"{of} bytes; lower it, raise AUSCULT_INFERENCE_GPU_MEMORY, or unload a model"
                )
            self._bytes[device] = before + nbytes

    def give_back(self, device: int, nbytes: int) -> None:
        """Undo `take`."""
        with self._changing:
            self._bytes[device] -= nbytes

    def give_back_with(self, session: object, device: int, nbytes: int) -> None:
        """Undo `take` when `session` is gone: a replaced one may still run."""
        weakref.finalize(session, self.give_back, device, nbytes)


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of this machine, and how much of them models may take. The default is a machine without a GPU."""

    preference: Preference = "auto"
    gpus: int = 0
    tensorrt: bool = False
    memory: int = 0
    """Bytes of each GPU's memory for all models' arenas together; 0: no limit."""
    model_memory: int = 0
    """Bytes for a model that names no gpu_mem_limit; 0: no limit, or all of `memory`."""
    taken: Taken = field(default_factory=Taken)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model's sessions are made: `providers` as ONNX Runtime takes them, the first preferred."""

    providers: tuple[tuple[str, dict[str, str]], ...]
    device: int | None = None
    """The GPU; None: the CPU."""
    graphs: bool = False
    """Whether the shapes of the warm-up are captured as CUDA graphs."""
    arena: int = 0
    """Bytes of the GPU's memory; 0: no limit."""


ON_CPU = Plan(((CPU, {}),))


def here(preference: Preference, memory: int, model_memory: int) -> Devices:
    """Look what this machine has."""
    gpus = _gpus() if preference != "cpu" and CUDA in ort.get_available_providers() else 0
    if gpus:
        # CUDA's and cuDNN's libraries may lie in Python packages, where the loader does not look.
        ort.preload_dlls()
    # The wheel for GPUs names TensorRT whether or not its libraries are installed.
    tensorrt = bool(gpus) and TENSORRT in ort.get_available_providers() and _loads("libnvinfer.so.10")
    return Devices(preference, gpus, tensorrt, memory, model_memory)


def plan(config: pb.ModelConfig, devices: Devices) -> Plan:
    """Return how the model is run here; WrongModelError where the configuration asks for what there is not."""
    kinds = {group.kind for group in config.instance_group}
    if pb.ModelInstanceGroup.KIND_MODEL in kinds:
        raise WrongModelError("config.pbtxt: instance_group KIND_MODEL is not served; use KIND_CPU or KIND_GPU")
    wanted = pb.ModelInstanceGroup.KIND_GPU in kinds
    if wanted and pb.ModelInstanceGroup.KIND_CPU in kinds:
        raise WrongModelError("config.pbtxt: instance_group has KIND_CPU and KIND_GPU; each model runs on one")
    if pb.ModelInstanceGroup.KIND_CPU in kinds or devices.preference == "cpu":
        return ON_CPU
    if not devices.gpus and wanted:
        raise WrongModelError(
            "config.pbtxt: instance_group asks for KIND_GPU, and this server has none that ONNX Runtime can use; "
            "install onnxruntime-gpu where there is one, or set AUSCULT_INFERENCE_PROVIDER=cpu to run such models "
            "on the CPU"
        )
    if not devices.gpus:
        return ON_CPU
    device = _device(config)
    if device >= devices.gpus:
        raise WrongModelError(f"config.pbtxt: instance_group names GPU {device}; there are {devices.gpus}, from 0")
    arena = _arena(config, devices)
    providers: list[tuple[str, dict[str, str]]] = [(CUDA, _cuda(config, device, arena)), (CPU, {})]
    if devices.tensorrt and devices.preference != "cuda":
        providers.insert(0, (TENSORRT, _tensorrt(config, device)))
    return Plan(tuple(providers), device, config.optimization.cuda.graphs, arena)


def _device(config: pb.ModelConfig) -> int:
    named = sorted({gpu for group in config.instance_group for gpu in group.gpus})
    if len(named) > 1:
        raise WrongModelError(f"config.pbtxt: instance_group names GPUs {named}; each model runs on one")
    return named[0] if named else 0


def _arena(config: pb.ModelConfig, devices: Devices) -> int:
    text = config.parameters["gpu_mem_limit"].string_value if "gpu_mem_limit" in config.parameters else ""
    if not text:
        return devices.model_memory or devices.memory
    if not text.isascii() or not text.isdecimal() or not int(text):
        raise WrongModelError(f"config.pbtxt: parameter gpu_mem_limit is {text!r}; a number of bytes is needed")
    # Triton's way to say that there is no limit is the largest size_t.
    return devices.model_memory or devices.memory if int(text) >= 2**63 else int(text)


def _cuda(config: pb.ModelConfig, device: int, arena: int) -> dict[str, str]:
    options = {"device_id": str(device)}
    if arena:
        # Doubling what is taken would reach a limit at half of it.
        options |= {"gpu_mem_limit": str(arena), "arena_extend_strategy": "kSameAsRequested"}
    for name, values in (("arena_extend_strategy", _STRATEGIES), ("cudnn_conv_algo_search", _SEARCHES)):
        if name in config.parameters:
            given = config.parameters[name].string_value
            if given not in values:
                raise WrongModelError(f"config.pbtxt: parameter {name} is {given!r}; one of {', '.join(values)}")
            options[name] = values[given]
    if "do_copy_in_default_stream" in config.parameters:
        options["do_copy_in_default_stream"] = config.parameters["do_copy_in_default_stream"].string_value
    options |= _accelerator(config, "cuda")
    if config.optimization.cuda.graphs:
        options["enable_cuda_graph"] = "1"
    return options


def _tensorrt(config: pb.ModelConfig, device: int) -> dict[str, str]:
    options = {"device_id": str(device)}
    for name, value in _accelerator(config, "tensorrt").items():
        if name == "precision_mode":
            if value not in _PRECISIONS:
                raise WrongModelError(f"config.pbtxt: precision_mode is {value!r}; FP32, FP16 or INT8")
            options |= _PRECISIONS[value]
        else:
            options[_TENSORRT_OPTIONS.get(name, name)] = value
    return options


def _accelerator(config: pb.ModelConfig, name: str) -> Mapping[str, str]:
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    return next((dict(it.parameters) for it in accelerators if it.name == name), {})


@cache
def _loads(library: str) -> Any:
    """Return the library, None where it is not installed."""
    try:
        return ctypes.CDLL(library)
    except OSError:
        return None


def _gpus() -> int:
    """Return how many devices CUDA's driver has; 0 where there is no driver."""
    driver, count = _loads("libcuda.so.1"), ctypes.c_int()
    if driver is None or driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value
