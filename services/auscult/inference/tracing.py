"""What is traced and logged, as TraceSetting and LogSettings change it while the server runs.

Spans go where `platform.telemetry` sends them; no level writes a tensor, which may be a patient's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from auscult.inference.parameters import InvalidRequestError
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.repository import Repository
from auscult.inference.statuses import UnsupportedError

_LOG = logging.getLogger("auscult.inference")

_DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "trace_level": ("TIMESTAMPS",),
    "trace_rate": ("1000",),
    "trace_count": ("-1",),
    "trace_mode": ("opentelemetry",),
}
_CHANGEABLE = ("trace_level", "trace_rate", "trace_count")


class Tracing:
    """Which requests get a span: all that are part of a caller's trace, and of the others every `trace_rate`th.

    Of the latter at most `trace_count`, -1: all. That and the defaults are Triton's: to trace a small model's every
    request would cost as much as to answer it.
    """

    def __init__(self) -> None:
        self._common: dict[str, tuple[str, ...]] = {}
        self._own: dict[str, dict[str, tuple[str, ...]]] = {}
        self._asked: dict[str, count[int]] = {}
        self._left: dict[str, int] = {}
        self._counting = threading.Lock()

    def settings(self, model: str = "") -> dict[str, tuple[str, ...]]:
        """Return what holds for the model; for those that have no settings of their own where `model` is empty."""
        return {**_DEFAULTS, **self._common, **self._own.get(model, {})}

    def change(self, model: str, settings: Mapping[str, Sequence[str]]) -> None:
        """Change some settings, all or none of them; one without a value goes back to its default.

        InvalidRequestError or UnsupportedError says what cannot be set.
        """
        for name, values in settings.items():
            _check(name, values)
        own = self._own.setdefault(model, {}) if model else self._common
        for name, values in settings.items():
            own.pop(name, None)
            if values:
                own[name] = tuple(values)
        self._asked.clear()
        self._left.clear()

    def wanted(self, model: str, *, traced: bool) -> bool:
        """Say whether a request of the model gets a span, and count it. `traced`: part of the caller's trace."""
        settings = self.settings(model) if self._common or model in self._own else _DEFAULTS
        if settings["trace_level"] == ("OFF",):
            return False
        if traced:
            return True
        # What is shared by models is counted for them together.
        counted = model if model in self._own else ""
        if next(self._asked.setdefault(counted, count())) % int(settings["trace_rate"][0]):
            return False
        with self._counting:
            left = self._left.setdefault(counted, int(settings["trace_count"][0]))
            self._left[counted] = left - 1 if left > 0 else left
        return left != 0


def _check(name: str, values: Sequence[str]) -> None:
    if name not in _CHANGEABLE:
        known = name in ("trace_mode", "trace_file", "log_frequency")
        if known:
            raise UnsupportedError(f"{name} is this server's own: spans go to its home folder and its collector")
        raise InvalidRequestError(f"unknown trace setting {name!r}; there are {', '.join(_CHANGEABLE)}")
    if not values:
        return
    if name == "trace_level":
        if "TENSORS" in values:
            raise UnsupportedError("trace_level TENSORS is not served: tensors may be patients' data")
        if list(values) not in (["OFF"], ["TIMESTAMPS"]):
            raise InvalidRequestError(f"trace_level: OFF or TIMESTAMPS is expected, given {list(values)}")
        return
    least = 1 if name == "trace_rate" else -1
    try:
        (number,) = map(int, values)
    except ValueError:
        number = least - 1
    if number < least:
        raise InvalidRequestError(f"{name}: one number, at least {least}, is expected, given {list(values)}")


class LogLevels(logging.Filter):
    """Which of the inference service's log records are written: each level by itself, as Triton has it."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "log_file": "",
            "log_info": True,
            "log_warning": True,
            "log_error": True,
            "log_verbose_level": 0,
            "log_format": "default",
        }

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record of this level is written."""
        if record.levelno >= logging.ERROR:
            return bool(self.settings["log_error"])
        if record.levelno >= logging.WARNING:
            return bool(self.settings["log_warning"])
        if record.levelno >= logging.INFO:
            return bool(self.settings["log_info"])
        return bool(self.settings["log_verbose_level"] > 0)

    def change(self, given: Mapping[str, Any]) -> None:
        """Change some settings, all or none; InvalidRequestError or UnsupportedError says what cannot be set."""
        for name, value in given.items():
            if name not in self.settings:
                raise InvalidRequestError(f"unknown log setting {name!r}; there are {', '.join(self.settings)}")
            present = self.settings[name]
            if type(value) is not type(present):
                raise InvalidRequestError(f"{name}: a value of type {type(present).__name__} is expected")
            if isinstance(present, str) and value != present:
                raise UnsupportedError(f"{name} is set where the process's log is collected, not here")
        self.settings |= given
        _LOG.setLevel(logging.DEBUG if self.settings["log_verbose_level"] else logging.NOTSET)


class SettingsService:
    """The methods that read and change what is traced and logged."""

    def __init__(self, repository: Repository, tracing: Tracing, levels: LogLevels) -> None:
        self._repository = repository
        self._tracing = tracing
        self._levels = levels

    def trace_setting(self, request: pb.TraceSettingRequest, _call: Any) -> pb.TraceSettingResponse:
        """Change what is asked, and return what holds then."""
        if request.model_name:
            self._repository.find(request.model_name)
        self._tracing.change(request.model_name, {name: tuple(it.value) for name, it in request.settings.items()})
        settings = self._tracing.settings(request.model_name)
        return pb.TraceSettingResponse(
            settings={name: pb.TraceSettingResponse.SettingValue(value=it) for name, it in settings.items()}
        )

    def log_settings(self, request: pb.LogSettingsRequest, _call: Any) -> pb.LogSettingsResponse:
        """Change what is asked, and return what holds then."""
        self._levels.change(
            {
                name: getattr(it, chosen)
                for name, it in request.settings.items()
                if (chosen := it.WhichOneof("parameter_choice"))
            }
        )
        response = pb.LogSettingsResponse()
        for name, value in self._levels.settings.items():
            field = {bool: "bool_param", int: "uint32_param", str: "string_param"}[type(value)]
            setattr(response.settings[name], field, value)
        return response
