"""The model repository: Triton's layout, with a card and digests beside each model.

    <model>/config.pbtxt  <model>/card.yaml  <model>/SHA256SUMS  <model>/<version>/model.onnx

A model that cannot be trusted or does not fit its configuration is not served, and its reason is kept to be told;
the others are served. Where it is the new state of a model that serves already, the old one goes on serving.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from auscult.inference import loading, model_config
from auscult.inference.config_checks import WrongModelError
from auscult.inference.integrity import Trust
from auscult.inference.loading import Model
from auscult.inference.manifest import UntrustedModelError
from auscult.inference.providers import Devices, here
from auscult.inference.sources import Folder, Source, bucket, trust
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings

_LOG = logging.getLogger("auscult.inference")

UNLOADED = "it was unloaded"
RETIRED_STAGE = "retired"
RETIRED = "its card says that it is retired; it is served only once RepositoryModelLoad asks for it"


class UnknownModelError(LookupError):
    """There is no such model or version here."""


class RefusedModelError(Exception):
    """The model is here but is not served; the text says why."""


class AwayError(Exception):
    """The repository itself cannot be read now; the text says why."""


class LoadError(Exception):
    """What was to be loaded is refused; the text says why, and what serves meanwhile."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the repository's index: a version that is served, or a state of a model that is not."""

    name: str
    version: str
    ready: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Override:
    """What a request to load a model brings: its configuration as JSON, and its files where it brings them, too."""

    config: str
    files: Mapping[str, bytes]
    """By their paths in the model's folder; empty: those of the repository."""


class Repository:
    """All models of a folder or another source, loaded when it is made.

    Methods may be called from any thread; those that load take as long as it takes. A model that was found stays
    usable after it is replaced or unloaded. `threads`: per session, 0 leaves it to ONNX Runtime. RefuseToStart where
    there is no folder of models, OSError where another source cannot be reached.
    """

    def __init__(
        self,
        source: Path | Source,
        threads: int = 0,
        accepted: Trust | None = None,
        devices: Devices | None = None,
    ) -> None:
        self._trust = accepted or Trust()
        self._devices = devices or Devices()
        if isinstance(source, Path):
            if not source.is_dir():
                raise RefuseToStart(
                    "model-repository-missing", f"there is no folder {source}; set AUSCULT_MODEL_REPOSITORY to yours"
                )
            source = Folder(source, self._trust)
        self._source = source
        self._threads = threads
        self._changing = threading.Lock()
        # Readers take no lock: these are replaced, never changed.
        self._models: Mapping[str, Model] = {}
        self._refused: Mapping[str, str] = {}
        self._states: dict[str, Hashable] = {}
        self.poll()

    @property
    def models(self) -> Mapping[str, Model]:
        """The models that are served, by name."""
        return self._models

    @property
    def refused(self) -> Mapping[str, str]:
        """The models whose present files are not served: the reason by name."""
        return self._refused

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Load the repository that the settings name; RefuseToStart where it cannot be read."""
        try:
            source = bucket(settings) or settings.models
            return cls(source, settings.inference_threads, trust(settings), _devices(settings))
        except OSError as error:
            raise RefuseToStart(
                "model-repository-away",
                f"cannot read {settings.model_repository}, and nothing of it is in the cache: {error}",
            ) from None

    def find(self, name: str, version: str = "") -> tuple[Model, str]:
        """Return the model and the version that answers; UnknownModelError or RefusedModelError."""
        model = self._models.get(name)
        if model is None:
            if reason := self._refused.get(name):
                raise RefusedModelError(f"model {name!r} is not served: {reason}")
            raise UnknownModelError(f"unknown model {name!r}; there are {', '.join(self._models) or 'none'}")
        if version and version not in model.sessions:
            raise UnknownModelError(
                f"model {name!r} has no version {version!r}; there are {', '.join(model.sessions)}"
            )
        return model, version or model.latest

    def index(self) -> list[Entry]:
        """Return every version that is served, and every model whose present files are not, with the reason."""
        models, refused = self._models, self._refused
        served = [Entry(model.name, version, ready=True) for model in models.values() for version in model.sessions]
        told = [Entry(name, "", ready=False, reason=reason) for name, reason in refused.items()]
        return sorted(served + told, key=lambda entry: (entry.name, not entry.ready))

    def load(self, name: str, override: Override | None = None) -> None:
        """Load the model, or load it again, also if it is retired.

        `override`: holds instead of what the source has. UnknownModelError, LoadError where it is refused, or
        AwayError.
        """
        with self._changing:
            try:
                states = self._source.look()
            except OSError as error:
                raise AwayError(f"the repository cannot be read: {error}; what is served stays as it is") from None
            if name not in states and not (override and override.files):
                raise UnknownModelError(f"the repository has no folder {name!r}")
            if reason := self._load(name, states.get(name), asked=True, override=override):
                meanwhile = "; the model loaded before goes on serving" if name in self._models else ""
                raise LoadError(f"model {name!r} is refused: {reason}{meanwhile}")

    def unload(self, name: str) -> None:
        """Serve the model no longer; UnknownModelError where there is none of that name."""
        with self._changing:
            if name not in self._models and name not in self._refused:
                raise UnknownModelError(f"unknown model {name!r}")
            self._models = {other: model for other, model in self._models.items() if other != name}
            self._refused = {**self._refused, name: UNLOADED}

    def poll(self) -> None:
        """Load what is new or has changed since it was last looked at, and unload what is gone or retired.

        OSError where the source cannot be reached; then nothing changes.
        """
        with self._changing:
            states = self._source.look()
            for name, state in states.items():
                if self._states.get(name) != state:
                    self._load(name, state)
            for name in self._states.keys() - states.keys():
                del self._states[name]
                _LOG.info("model %s is served no longer: its folder is gone", name)
            self._models = {name: model for name, model in self._models.items() if name in states}
            self._refused = {name: reason for name, reason in self._refused.items() if name in states}

    def _load(self, name: str, state: Hashable, *, asked: bool = False, override: Override | None = None) -> str:
        """Load a model and return why it is refused, empty where it is served."""
        # What changes while the files are read is seen as a change at the next look.
        self._states[name] = state
        try:
            model = self._read(name, override, asked=asked)
        except Exception as error:  # noqa: BLE001 - a defect that one model shows must not keep others from serving
            if isinstance(error, UntrustedModelError | WrongModelError | OSError):
                reason = str(error)
                if isinstance(error, OSError):
                    self._states[name] = None  # nothing is known of the files: the next look tries again
            else:
                reason = f"{type(error).__name__} while it was loaded; the server's log says where"
                _LOG.error("model %s:\n%s", name, "".join(traceback.format_tb(error.__traceback__)))
            kept = "; the one loaded before goes on serving" if name in self._models else ""
            _LOG.error("model %s is not served: %s%s", name, reason, kept)
            # What only a request brought is told to its caller; it says nothing about the files that are here.
            if override is None:
                self._refuse(name, reason)
            return reason
        if model is None:
            self._models = {other: it for other, it in self._models.items() if other != name}
            self._refuse(name, RETIRED)
            _LOG.info("model %s is not served: it is retired", name)
            return RETIRED
        self._models = dict(sorted({**self._models, name: model}.items()))
        self._refused = {other: reason for other, reason in self._refused.items() if other != name}
        if override is None:
            self._source.served(name)
        stage = model.card.stage if model.card else "without a card"
        _LOG.info("model %s is served, versions %s, %s", name, ", ".join(model.sessions), stage)
        return ""

    def _read(self, name: str, override: Override | None, *, asked: bool) -> Model | None:
        """Return the model; None where it is retired and nobody asked for it."""
        if override and self._trust.keys:
            raise UntrustedModelError(
                "only signed models are served here, and what a request brings is not signed; "
                "put it into the repository, signed, or remove AUSCULT_MODEL_TRUSTED_KEYS"
            )
        files = override.files if override and override.files else self._source.read(name)
        if not asked and loading.stage(files) == RETIRED_STAGE:
            return None
        config = model_config.parse_json(override.config, name) if override else None
        return loading.load(name, files, self._threads, self._trust, config, devices=self._devices)

    def _refuse(self, name: str, reason: str) -> None:
        self._refused = dict(sorted({**self._refused, name: reason}.items()))


def _devices(settings: Settings) -> Devices:
    return here(settings.inference_provider, settings.inference_gpu_memory, settings.inference_gpu_model_memory)
