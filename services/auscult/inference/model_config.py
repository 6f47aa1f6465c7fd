"""`config.pbtxt`: Triton's model configuration, read and compared with the graph that it describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format

from auscult.inference.pb import model_config_pb2 as pb
from auscult.inference.tensors import ANY, DATATYPES, TensorSpec

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"


class WrongModelError(Exception):
    """The configuration cannot be served, or is not that of the graph; the text says where they differ."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A model's inputs and outputs, in the order of its configuration."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    """0: there is no batch dimension."""


def parse(text: str, name: str) -> pb.ModelConfig:
    """Read the configuration of the model in folder `name`; WrongModelError names what is wrong."""
    config = pb.ModelConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise WrongModelError(f"config.pbtxt: {error}") from None
    if config.name not in ("", name):
        raise WrongModelError(f"config.pbtxt: name is {config.name!r}, the folder is {name!r}")
    if config.platform not in ("", PLATFORM) or config.backend not in ("", BACKEND):
        raise WrongModelError(f"config.pbtxt: only platform {PLATFORM!r} and backend {BACKEND!r} are served")
    if config.max_batch_size < 0:
        raise WrongModelError("config.pbtxt: max_batch_size is negative")
    _check(config.dynamic_batching, config.max_batch_size)
    config.name, config.platform, config.backend = name, PLATFORM, BACKEND
    config.default_model_filename = config.default_model_filename or "model.onnx"
    return config


def signature(config: pb.ModelConfig) -> Signature:
    """Return what the configuration says that the model takes and gives."""
    batch = (ANY,) if config.max_batch_size else ()
    if not config.input or not config.output:
        raise WrongModelError("config.pbtxt: at least one input and one output are needed")
    return Signature(
        tuple(_tensor(tensor, batch) for tensor in config.input),
        tuple(_tensor(tensor, batch) for tensor in config.output),
        config.max_batch_size,
    )


def served_versions(config: pb.ModelConfig, present: set[int]) -> list[int]:
    """Return which of the version folders `present` are served, ascending; by default the highest alone."""
    policy = config.version_policy
    if policy.HasField("all"):
        served = present
    elif policy.HasField("specific"):
        served = set(policy.specific.versions)
        if absent := sorted(served - present):
            raise WrongModelError(f"config.pbtxt: version_policy asks for {absent}, which has no folder")
    else:
        served = set(sorted(present)[-max(1, policy.latest.num_versions) :])
    if not served:
        raise WrongModelError("there is no version folder (1, 2, ...) to serve")
    return sorted(served)


def compare(expected: Signature, session: Any) -> None:
    """Hold the configuration against the graph in an ONNX Runtime session; WrongModelError where they differ.

    A configured dimension may be narrower than the graph's, never wider. Outputs may be left out, inputs not.
    """
    for kind, specs, nodes in (
        ("input", expected.inputs, session.get_inputs()),
        ("output", expected.outputs, session.get_outputs()),
    ):
        graph = {node.name: node for node in nodes}
        configured = {spec.name for spec in specs}
        if len(configured) != len(specs):
            raise WrongModelError(f"config.pbtxt names one {kind} twice")
        if unknown := sorted(configured - graph.keys()):
            raise WrongModelError(f"config.pbtxt has {kind} {unknown[0]!r}, the graph has {sorted(graph)}")
        if kind == "input" and (left_out := sorted(graph.keys() - configured)):
            raise WrongModelError(f"the graph has input {left_out[0]!r}, config.pbtxt does not")
        for spec in specs:
            node = graph[spec.name]
            if node.type != spec.datatype.onnx:
                raise WrongModelError(
                    f"{kind} {spec.name!r}: {spec.datatype.onnx} configured, {node.type} in the graph"
                )
            # ONNX Runtime names a dimension of any size, or gives None.
            shape = [size if isinstance(size, int) else ANY for size in node.shape]
            if len(shape) != len(spec.shape) or any(
                size not in (ANY, configured) for size, configured in zip(shape, spec.shape, strict=True)
            ):
                raise WrongModelError(
                    f"{kind} {spec.name!r}: shape {list(spec.shape)} configured, {shape} in the graph"
                )


def _check(batching: pb.ModelDynamicBatching, largest: int) -> None:
    if wrong := [size for size in batching.preferred_batch_size if not 1 <= size <= largest]:
        raise WrongModelError(f"config.pbtxt: preferred_batch_size {wrong[0]} is not within max_batch_size {largest}")
    levels, default = batching.priority_levels, batching.default_priority_level
    if bool(levels) != bool(default) or default > levels:
        raise WrongModelError(
            f"config.pbtxt: default_priority_level {default} is not one of {levels} priority_levels"
        )
    if wrong := [level for level in batching.priority_queue_policy if not 1 <= level <= levels]:
        raise WrongModelError(
            f"config.pbtxt: priority_queue_policy {wrong[0]} is not one of {levels} priority_levels"
        )


def _tensor(tensor: pb.ModelInput | pb.ModelOutput, batch: tuple[int, ...]) -> TensorSpec:
    name = pb.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    datatype = DATATYPES.get("BYTES" if name == "STRING" else name)
    if datatype is None:
        raise WrongModelError(f"config.pbtxt: {tensor.name!r} has data_type TYPE_{name}, which is not served")
    if any(size != ANY and size < 1 for size in tensor.dims):
        raise WrongModelError(f"config.pbtxt: {tensor.name!r} has dims {list(tensor.dims)}; use sizes or -1")
    return TensorSpec(tensor.name, datatype, (*batch, *tensor.dims))
