"""What an ONNX graph may hold to be imported, and small changes to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from auscult.models.importing.source import CannotImport, framework

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, ValueInfoProto

DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Operators that ONNX Runtime has built in."""


def check(model: ModelProto) -> None:
    """CannotImport where the graph uses operators, versions or types that the service cannot run; it names them."""
    onnx = framework("onnx", "authoring")
    if elsewhere := sorted(tensors_elsewhere(model)):
        raise CannotImport(
            "external-data",
            f"weights of {elsewhere[0]!r} are in another file, and are no initializer or attribute of the graph; "
            "save them within the graph",
        )
    functions = {(function.domain, function.name) for function in model.functions}
    unknown = sorted(
        {
            f"{node.domain}::{node.op_type}"
            for node in _nodes(model.graph)
            if node.domain not in DOMAINS and (node.domain, node.op_type) not in functions
        }
    )
    if unknown:
        raise CannotImport(
            "custom-operators",
            f"the graph needs operators that ONNX Runtime does not have: {', '.join(unknown)}; "
            "export the model with standard operators",
        )
    newest = {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": 5}
    for opset in model.opset_import:
        domain = "" if opset.domain == "ai.onnx" else opset.domain
        if not 1 <= opset.version <= newest.get(domain, opset.version):
            raise CannotImport(
                "opset-unknown",
                f"opset {opset.version} of {domain or 'ai.onnx'} is newer than what is known, {newest.get(domain)}; "
                "export the model with an older one",
            )
    for kind, values in (("input", inputs(model)), ("output", list(model.graph.output))):
        for value in values:
            if value.type.WhichOneof("value") != "tensor_type":
                raise CannotImport(
                    "not-a-tensor",
                    f"{kind} {value.name!r} is a {value.type.WhichOneof('value')}, which the protocol cannot carry; "
                    "export the model with tensors (a scikit-learn model: with zipmap=False)",
                )
            if not value.type.tensor_type.HasField("shape"):
                raise CannotImport("shape-unknown", f"{kind} {value.name!r} has no shape; export the model with one")


def tensors_elsewhere(message: Message) -> Iterator[str]:
    """Give the names of all tensors, at any depth, whose values are not in the message.

    ONNX Runtime would read them from wherever they say.
    """
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in (value,) if isinstance(value, Message) else value:
            if inner.DESCRIPTOR.name != "TensorProto":
                yield from tensors_elsewhere(inner)
            elif inner.external_data or inner.data_location:
                yield inner.name


def inputs(model: ModelProto) -> list[ValueInfoProto]:
    """Return what a caller has to give: old graphs list their weights as inputs, too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def drop_weights_from_inputs(model: ModelProto) -> None:
    """Leave only what a caller has to give among the graph's inputs."""
    kept = inputs(model)
    del model.graph.input[:]
    model.graph.input.extend(kept)


def shape(value: ValueInfoProto) -> tuple[int, ...]:
    """Return the sizes, -1 for one that is open."""
    return tuple(dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim)


def dtype(value: ValueInfoProto) -> Any:
    """Return the numpy dtype."""
    onnx = framework("onnx", "authoring")
    return onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


def batch(model: ModelProto, largest: int) -> int:
    """Return `largest` where the first axis of each tensor is open and not its only one, else 0."""
    shapes = [shape(value) for value in (*model.graph.input, *model.graph.output)]
    return largest if all(len(sizes) > 1 and sizes[0] == -1 for sizes in shapes) else 0


def keep_output(model: ModelProto, index: int, name: str) -> None:
    """Keep one output alone, under `name`, and the nodes that it needs."""
    kept = model.graph.output[index]
    old = kept.name
    needed, nodes = {old}, []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
            needed.update(
                used for attribute in node.attribute if attribute.HasField("g") for used in _used(attribute.g)
            )
    nodes.reverse()
    for node in nodes:
        _rename(node.input, old, name)
        _rename(node.output, old, name)
    value = type(kept)()
    value.CopyFrom(kept)
    value.name = name
    kept_nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(kept_nodes)
    model.graph.output.append(value)


def _rename(names: Any, old: str, new: str) -> None:
    for place, each in enumerate(names):
        if each == old:
            names[place] = new


def _used(graph: GraphProto) -> Iterator[str]:
    for node in _nodes(graph):
        yield from node.input


def _nodes(graph: GraphProto) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def answer_nan_for_missing(model: ModelProto) -> None:
    """Make each row with a missing or infinite value give NaN: one input (rows, features), one output (rows, n).

    For sources that refuse such rows or treat them in their own way: the graph would give a plausible number.
    """
    onnx = framework("onnx", "authoring")
    features, answer = model.graph.input[0], model.graph.output[0]
    given, kind = features.name, answer.type.tensor_type.elem_type
    if not any(opset.domain in ("", "ai.onnx") for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("", 15))
    inner = f"{answer.name}_of_whole_rows"
    for node in model.graph.node:
        _rename(node.input, answer.name, inner)
        _rename(node.output, answer.name, inner)
    make = onnx.helper.make_node
    model.graph.initializer.append(onnx.helper.make_tensor("not_a_number", kind, [], [float("nan")]))
    model.graph.node.extend(
        [
            make("Sub", [given, given], ["zero_where_finite"]),
            make("IsNaN", ["zero_where_finite"], ["is_missing"]),
            make("Cast", ["is_missing"], ["missing"], to=onnx.TensorProto.FLOAT),
            make("ReduceMax", ["missing"], ["any_missing"], axes=[1], keepdims=1),
            make("Cast", ["any_missing"], ["row_is_missing"], to=onnx.TensorProto.BOOL),
            make("Where", ["row_is_missing", "not_a_number", inner], [answer.name]),
        ]
    )
