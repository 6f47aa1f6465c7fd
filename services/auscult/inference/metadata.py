"""The methods that describe: the server, its models, what it counted."""

from __future__ import annotations

from typing import Any

import auscult
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.repository import RefusedModelError, Repository, UnknownModelError
from auscult.inference.statistics import Duration, RunTimes, Statistics, VersionStatistics
from auscult.inference.statuses import LONGEST_DETAILS
from auscult.inference.tensors import TensorSpec

EXTENSIONS = (
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)
"""Triton's extensions that are served, by Triton's names."""

REASON = "auscult-reason"
"""Trailing metadata of ModelReady: why the model, or the newest files of it, are not served."""


class MetadataService:
    """Describes a repository and what was counted about it."""

    def __init__(self, repository: Repository, statistics: Statistics) -> None:
        self._repository = repository
        self._statistics = statistics

    def server_live(self, _request: pb.ServerLiveRequest, _call: Any) -> pb.ServerLiveResponse:
        """Answer that the process serves."""
        return pb.ServerLiveResponse(live=True)

    def server_ready(self, _request: pb.ServerReadyRequest, _call: Any) -> pb.ServerReadyResponse:
        """Answer whether some model is served; which ones, ModelReady tells."""
        return pb.ServerReadyResponse(ready=bool(self._repository.models))

    def model_ready(self, request: pb.ModelReadyRequest, call: Any) -> pb.ModelReadyResponse:
        """Answer whether the model is served; False also for one that is not here, as Triton does."""
        reason = self._repository.refused.get(request.name, "")
        try:
            self._repository.find(request.name, request.version)
            ready = True
        except (UnknownModelError, RefusedModelError) as error:
            reason, ready = reason or str(error), False
        if reason:
            # A header's value is one line of ASCII, and all headers share 8 KiB.
            line = " ".join(reason.encode("ascii", "replace").decode().split())
            call.set_trailing_metadata(((REASON, line[:LONGEST_DETAILS]),))
        return pb.ModelReadyResponse(ready=ready)

    def server_metadata(self, _request: pb.ServerMetadataRequest, _call: Any) -> pb.ServerMetadataResponse:
        """Name the server, its version and Triton's extensions that it has."""
        return pb.ServerMetadataResponse(name="auscult", version=auscult.__version__, extensions=EXTENSIONS)

    def model_metadata(self, request: pb.ModelMetadataRequest, _call: Any) -> pb.ModelMetadataResponse:
        """Describe a model's tensors and versions."""
        model, _ = self._repository.find(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=list(model.sessions),
            platform=model.config.platform,
            inputs=[_described(spec) for spec in model.signature.inputs],
            outputs=[_described(spec) for spec in model.signature.outputs],
        )

    def model_config(self, request: pb.ModelConfigRequest, _call: Any) -> pb.ModelConfigResponse:
        """Return the configuration as it was read, with what it left to defaults filled in."""
        model, _ = self._repository.find(request.name, request.version)
        return pb.ModelConfigResponse(config=model.config)

    def model_statistics(self, request: pb.ModelStatisticsRequest, _call: Any) -> pb.ModelStatisticsResponse:
        """Return what was counted about the versions that are served: of one model, or of all."""
        if request.name:
            model, version = self._repository.find(request.name, request.version)
            asked = [(model.name, one) for one in ([version] if request.version else model.sessions)]
        else:
            asked = [(model.name, one) for model in self._repository.models.values() for one in model.sessions]
        return pb.ModelStatisticsResponse(model_stats=[_counted(*key, self._statistics.of(*key)) for key in asked])


def _described(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype.name, shape=spec.shape)


def _counted(name: str, version: str, numbers: VersionStatistics) -> pb.ModelStatistics:
    return pb.ModelStatistics(
        name=name,
        version=version,
        last_inference=numbers.last_inference_ms,
        inference_count=numbers.inferences,
        execution_count=numbers.executions,
        inference_stats=pb.InferStatistics(
            success=_duration(numbers.success),
            fail=_duration(numbers.fail),
            queue=_duration(numbers.queue),
            cache_hit=pb.StatisticDuration(),
            cache_miss=pb.StatisticDuration(),
            **_parts(numbers.requests),
        ),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=size, **_parts(times))
            for size, times in sorted(numbers.batches.items())
        ],
    )


def _parts(times: RunTimes) -> dict[str, Any]:
    return {
        "compute_input": _duration(times.compute_input),
        "compute_infer": _duration(times.compute_infer),
        "compute_output": _duration(times.compute_output),
    }


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)
