"""`config.pbtxt`: Triton's model configuration, read and compared with the graph that it describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from google.protobuf import json_format, text_format

from auscult.inference.config_checks import WrongModelError, check
from auscult.inference.pb import model_config_pb2 as pb
from auscult.inference.tensors import ANY, DATATYPES, TensorSpec

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"


@dataclass(frozen=True)
class Signature:
    """A model's inputs and outputs, in the order of its configuration."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    """0: there is no batch dimension."""

    @cached_property
    def by_name(self) -> Mapping[str, TensorSpec]:
        """The inputs by name, in order."""
        return {spec.name: spec for spec in self.inputs}

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """The outputs' names, in order."""
        return tuple(spec.name for spec in self.outputs)

    @cached_property
    def reshaped(self) -> Mapping[str, TensorSpec]:
        """The outputs that have another shape than the graph's, by name."""
        return {spec.name: spec for spec in self.outputs if spec.reshaped is not None}


def parse(text: str, name: str) -> pb.ModelConfig:
    """Read the configuration of the model in folder `name`; WrongModelError names what is wrong."""
    config = pb.ModelConfig()
    try:
        text_format.Parse(text, config)
    except (text_format.ParseError, RecursionError) as error:
        raise WrongModelError(f"config.pbtxt: {error}") from None
    return _named(config, name)


def parse_json(text: str, name: str) -> pb.ModelConfig:
    """Read the configuration that a request to load `name` brings; WrongModelError names what is wrong."""
    config = pb.ModelConfig()
    try:
        json_format.Parse(text, config)
    except (json_format.ParseError, RecursionError) as error:
        raise WrongModelError(f"the request's config: {error}") from None
    return _named(config, name)


def _named(config: pb.ModelConfig, name: str) -> pb.ModelConfig:
    if config.name not in ("", name):
        raise WrongModelError(f"config.pbtxt: name is {config.name!r}, the folder is {name!r}")
    if config.platform not in ("", PLATFORM) or config.backend not in ("", BACKEND):
        raise WrongModelError(f"config.pbtxt: only platform {PLATFORM!r} and backend {BACKEND!r} are served")
    check(config)
    config.name, config.platform, config.backend = name, PLATFORM, BACKEND
    config.default_model_filename = config.default_model_filename or "model.onnx"
    return config


def complete(config: pb.ModelConfig, session: Any) -> None:
    """Fill in the inputs or outputs where the configuration names none, as Triton does: all of the graph's."""
    for configured, nodes in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        for node in () if configured else nodes:
            known = [datatype.name for datatype in DATATYPES.values() if datatype.onnx == node.type]
            if not known:
                raise WrongModelError(f"the graph's {node.name!r} is a {node.type}, which is not served")
            shape = [size if isinstance(size, int) else ANY for size in node.shape]
            if config.max_batch_size and shape[:1] != [ANY]:
                raise WrongModelError(
                    f"config.pbtxt: max_batch_size is {config.max_batch_size}, "
                    f"but the graph's {node.name!r} of shape {shape} has no batch dimension"
                )
            configured.add(
                name=node.name,
                data_type=f"TYPE_{'STRING' if known[0] == 'BYTES' else known[0]}",
                dims=shape[1:] if config.max_batch_size else shape,
            )


def signature(config: pb.ModelConfig) -> Signature:
    """Return what the configuration says that the model takes and gives."""
    batch = (ANY,) if config.max_batch_size else ()
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

    A configured dimension may be narrower than the graph's, never wider. Outputs may be left out, inputs not, unless
    the graph has a value of its own for them; only those may be optional.
    """
    defaults = session.get_overridable_initializers()
    for spec in expected.inputs:
        if spec.optional and spec.name not in {node.name for node in defaults}:
            raise WrongModelError(f"input {spec.name!r} is optional in config.pbtxt, the graph has no default for it")
    for kind, specs, nodes in (
        ("input", expected.inputs, [*session.get_inputs(), *defaults]),
        ("output", expected.outputs, session.get_outputs()),
    ):
        graph = {node.name: node for node in nodes}
        configured = {spec.name for spec in specs}
        if len(configured) != len(specs):
            raise WrongModelError(f"config.pbtxt names one {kind} twice")
        if unknown := sorted(configured - graph.keys()):
            raise WrongModelError(f"config.pbtxt has {kind} {unknown[0]!r}, the graph has {sorted(graph)}")
        if kind == "input" and (left_out := sorted(graph.keys() - configured - {node.name for node in defaults})):
            raise WrongModelError(f"the graph has input {left_out[0]!r}, config.pbtxt does not")
        for spec in specs:
            node = graph[spec.name]
            if node.type != spec.datatype.onnx:
                raise WrongModelError(
                    f"{kind} {spec.name!r}: {spec.datatype.onnx} configured, {node.type} in the graph"
                )
            # ONNX Runtime names a dimension of any size, or gives None.
            shape = [size if isinstance(size, int) else ANY for size in node.shape]
            if len(shape) != len(spec.of_graph) or any(
                size not in (ANY, configured) for size, configured in zip(shape, spec.of_graph, strict=True)
            ):
                raise WrongModelError(
                    f"{kind} {spec.name!r}: shape {list(spec.of_graph)} configured, {shape} in the graph"
                )


def _tensor(tensor: pb.ModelInput | pb.ModelOutput, batch: tuple[int, ...]) -> TensorSpec:
    name = pb.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    datatype = DATATYPES.get("BYTES" if name == "STRING" else name)
    if datatype is None:
        raise WrongModelError(f"config.pbtxt: {tensor.name!r} has data_type TYPE_{name}, which is not served")
    if any(size != ANY and size < 1 for size in tensor.dims):
        raise WrongModelError(f"config.pbtxt: {tensor.name!r} has dims {list(tensor.dims)}; use sizes or -1")
    optional = isinstance(tensor, pb.ModelInput) and tensor.optional
    reshaped = (*batch, *tensor.reshape.shape) if tensor.HasField("reshape") else None
    if reshaped is not None and _between(tensor.reshape.shape) != _between(tensor.dims):
        raise WrongModelError(
            f"config.pbtxt: {tensor.name!r} has dims {list(tensor.dims)} and reshape {list(tensor.reshape.shape)}; "
            "they need as many elements, also between sizes of -1"
        )
    return TensorSpec(tensor.name, datatype, (*batch, *tensor.dims), optional=optional, reshaped=reshaped)


def _between(dims: Sequence[int]) -> list[int]:
    """Return how many elements there are before, between and after sizes of any number."""
    products = [1]
    for size in dims:
        if size == ANY:
            products.append(1)
        else:
            products[-1] *= size
    return products
