"""The parameters of a request, held against the types that Triton takes; those that it does not know are ignored."""

from __future__ import annotations

from collections.abc import Mapping

from auscult.inference.pb import open_inference_grpc_pb2 as pb


class InvalidRequestError(Exception):
    """The request does not fit the model; the text names the tensor, what is expected and what was given."""


_INTEGER = frozenset({"int64_param", "uint64_param"})
_TYPES: Mapping[str, frozenset[str]] = {
    "priority": _INTEGER,
    "timeout": _INTEGER,
    # Of a sequence. No model here keeps state, so each request is answered by itself, as by such models of Triton.
    "sequence_id": _INTEGER | {"string_param"},
    "sequence_start": frozenset({"bool_param"}),
    "sequence_end": frozenset({"bool_param"}),
    # A request has one response here, which is the final one: there is none to add.
    "triton_enable_empty_final_response": frozenset({"bool_param"}),
}


def check_parameters(parameters: Mapping[str, pb.InferParameter]) -> None:
    """InvalidRequestError where a parameter is of the wrong type, negative, or of a name that is Triton's own."""
    for name, parameter in parameters.items():
        given = parameter.WhichOneof("parameter_choice")
        expected = _TYPES.get(name)
        if expected and given not in expected:
            raise InvalidRequestError(
                f"parameter {name!r}: {' or '.join(sorted(expected))} is expected, given {given or 'nothing'}"
            )
        if name in ("priority", "timeout") and parameter.int64_param < 0:
            raise InvalidRequestError(f"parameter {name!r}: {parameter.int64_param} is negative")
        if not expected and name.startswith("triton_"):
            raise InvalidRequestError(f"parameter {name!r}: names that start with triton_ are reserved")
