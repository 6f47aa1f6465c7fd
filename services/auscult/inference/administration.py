"""The methods that change what is served: models of the repository, regions of shared memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from auscult.inference.parameters import InvalidRequestError
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.repository import Override, Repository
from auscult.inference.shared_memory import Regions
from auscult.inference.statuses import NotAllowedError, UnsupportedError

_NO_CUDA = "CUDA shared memory is not served here; send tensors in the message, or use system shared memory"

_FILE = "file:"
"""What the name of a parameter that brings a file starts with; its path in the model's folder follows."""


class RepositoryService:
    """Lists, loads and unloads models. `explicit`: whether callers may do more than list."""

    def __init__(self, repository: Repository, *, explicit: bool) -> None:
        self._repository = repository
        self._explicit = explicit

    def repository_index(self, request: pb.RepositoryIndexRequest, _call: Any) -> pb.RepositoryIndexResponse:
        """List versions that are served, and models that are not, with the reason."""
        _one_repository(request.repository_name)
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=entry.name,
                    version=entry.version,
                    state="READY" if entry.ready else "UNAVAILABLE",
                    reason=entry.reason,
                )
                for entry in self._repository.index()
                if entry.ready or not request.ready
            ]
        )

    def repository_model_load(
        self, request: pb.RepositoryModelLoadRequest, _call: Any
    ) -> pb.RepositoryModelLoadResponse:
        """Load a model, or load it again; requests for the model loaded before are answered by that."""
        self._may_change(request.repository_name)
        override = _override(request.parameters)
        if override and override.files:
            _check_name(request.model_name)
        self._repository.load(request.model_name, override)
        return pb.RepositoryModelLoadResponse()

    def repository_model_unload(
        self, request: pb.RepositoryModelUnloadRequest, _call: Any
    ) -> pb.RepositoryModelUnloadResponse:
        """Serve a model no longer; requests that it has are answered."""
        self._may_change(request.repository_name)
        # No model here depends on another.
        _only(request.parameters, "unload_dependents")
        self._repository.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    def _may_change(self, repository_name: str) -> None:
        _one_repository(repository_name)
        if not self._explicit:
            raise NotAllowedError(
                "models are loaded and unloaded by request where AUSCULT_INFERENCE_MODEL_CONTROL is explicit"
            )


class SharedMemoryService:
    """Registers regions of system shared memory. There is none of CUDA's."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    def system_shared_memory_status(
        self, request: pb.SystemSharedMemoryStatusRequest, _call: Any
    ) -> pb.SystemSharedMemoryStatusResponse:
        """Describe a region, or all."""
        status = pb.SystemSharedMemoryStatusResponse.RegionStatus
        return pb.SystemSharedMemoryStatusResponse(
            regions={
                region.name: status(
                    name=region.name, key=region.key, offset=region.offset, byte_size=region.byte_size
                )
                for region in self._regions.status(request.name)
            }
        )

    def system_shared_memory_register(
        self, request: pb.SystemSharedMemoryRegisterRequest, _call: Any
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Map a region."""
        self._regions.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    def system_shared_memory_unregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, _call: Any
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Forget a region, or all."""
        self._regions.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def cuda_shared_memory_status(
        self, _request: pb.CudaSharedMemoryStatusRequest, _call: Any
    ) -> pb.CudaSharedMemoryStatusResponse:
        """Say that there is none."""
        raise UnsupportedError(_NO_CUDA)

    def cuda_shared_memory_register(
        self, _request: pb.CudaSharedMemoryRegisterRequest, _call: Any
    ) -> pb.CudaSharedMemoryRegisterResponse:
        """Say that there is none."""
        raise UnsupportedError(_NO_CUDA)

    def cuda_shared_memory_unregister(
        self, request: pb.CudaSharedMemoryUnregisterRequest, _call: Any
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """Forget all regions: there are none, and perf_analyzer asks that of every server when it ends."""
        if request.name:
            raise UnsupportedError(_NO_CUDA)
        return pb.CudaSharedMemoryUnregisterResponse()


def _override(parameters: Mapping[str, pb.ModelRepositoryParameter]) -> Override | None:
    """Return what the parameters `config` and `file:<path>` of a request to load hold, None where there are none."""
    if not parameters:
        return None
    files = {}
    for name, value in parameters.items():
        if name != "config" and not name.startswith(_FILE):
            raise InvalidRequestError(f"parameter {name!r} is not supported; there are config and {_FILE}<path>")
        expected = "string_param" if name == "config" else "bytes_param"
        if value.WhichOneof("parameter_choice") != expected:
            raise InvalidRequestError(f"parameter {name!r}: a {expected} is expected")
        if name != "config":
            path = PurePosixPath(name.removeprefix(_FILE))
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise InvalidRequestError(f"parameter {name!r}: a path within the model's folder is expected")
            files[str(path)] = value.bytes_param
    if "config" not in parameters:
        raise InvalidRequestError(f"parameter config is needed beside {_FILE}<path>")
    return Override(parameters["config"].string_param, files)


def _check_name(name: str) -> None:
    """Refuse what no folder of a repository is called: it would tear lines of the log and of the metrics apart."""
    if not name or name.startswith(".") or "/" in name or not name.isprintable():
        raise InvalidRequestError(
            f"{name!r} is no name of a model: a slash, control characters and a dot to begin with are not allowed"
        )


def _one_repository(name: str) -> None:
    if name:
        raise UnsupportedError("there is one repository here; leave repository_name empty")


def _only(parameters: Mapping[str, pb.ModelRepositoryParameter], allowed: str) -> None:
    if unknown := sorted(parameters.keys() - {allowed}):
        raise InvalidRequestError(f"parameter {unknown[0]!r} is not supported; there is {allowed}")
