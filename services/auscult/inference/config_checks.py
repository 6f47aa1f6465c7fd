"""What of Triton's configuration is served, what is kept as a hint, and what is refused because answers would differ.

Kept, and seen by a client that asks for the configuration: `response_cache`, `model_metrics`, rate limits, host
policies and `parameters`. They say how fast a model runs, or are notes. `optimization` and `instance_group` are
`providers`' to read, `model_warmup` is `warmup`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from auscult.inference.pb import model_config_pb2 as pb


class WrongModelError(Exception):
    """The configuration cannot be served, or is not that of the graph; the text says where they differ."""


_REFUSED: Mapping[str, str] = {
    "sequence_batching": "no state is kept between requests",
    "ensemble_scheduling": "a pathway joins models; serve each of them by itself",
    "batch_input": "a batch has the tensors of its requests and no others",
    "batch_output": "a batch is parted along its first axis and not otherwise",
    "cc_model_filenames": "a version has one graph, default_model_filename",
}
"""Fields of the configuration that would change answers, and why they are not served."""

_REFUSED_OF_TENSORS: Mapping[str, str] = {
    "is_shape_tensor": "only TensorRT's engines have shape tensors",
    "allow_ragged_batch": "only requests of one shape are merged",
    "is_non_linear_format_io": "tensors are row-major",
}

_CHECKSUM = "checksum"
"""The agent of Triton's that compares digests. Stronger ones are compared here for every model."""


def check(config: pb.ModelConfig) -> None:
    """WrongModelError where the configuration asks for what is not served, with the field's name."""
    if config.max_batch_size < 0:
        raise WrongModelError("config.pbtxt: max_batch_size is negative")
    given = {field.name for field, _ in config.ListFields()}
    for field, reason in _REFUSED.items():
        if field in given:
            raise WrongModelError(f"config.pbtxt: {field} is not served: {reason}")
    if config.model_transaction_policy.decoupled:
        raise WrongModelError("config.pbtxt: decoupled is not served: a request has one response")
    if agents := [agent.name for agent in config.model_repository_agents.agents if agent.name != _CHECKSUM]:
        raise WrongModelError(f"config.pbtxt: repository agent {agents[0]!r} is not served; do its work before")
    for tensor in (*config.input, *config.output):
        of_tensor = {field.name for field, _ in tensor.ListFields()}
        for field, reason in _REFUSED_OF_TENSORS.items():
            if field in of_tensor:
                raise WrongModelError(f"config.pbtxt: {tensor.name!r}: {field} is not served: {reason}")
    _check_batching(config.dynamic_batching, config.max_batch_size)


def check_files(config: pb.ModelConfig, present: Collection[str]) -> None:
    """WrongModelError where a file that the configuration names is not one of the model's."""
    for field, path in _files(config):
        if path not in present:
            raise WrongModelError(f"config.pbtxt: {field} names {path}, which is not among the model's files")


def _files(config: pb.ModelConfig) -> Iterator[tuple[str, str]]:
    for output in config.output:
        if output.label_filename:
            yield "label_filename", output.label_filename
    for library in config.model_operations.op_library_filename:
        yield "op_library_filename", library
    for warmup in config.model_warmup:
        for given in warmup.inputs.values():
            if given.input_data_file:
                yield "input_data_file", f"warmup/{given.input_data_file}"


def _check_batching(batching: pb.ModelDynamicBatching, largest: int) -> None:
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
