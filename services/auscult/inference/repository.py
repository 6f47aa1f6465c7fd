"""The model repository: Triton's layout, with a card and digests beside each model.

    <model>/config.pbtxt  <model>/card.yaml  <model>/SHA256SUMS  <model>/<version>/model.onnx

A model that cannot be trusted or does not fit its configuration is not served, and its reason is kept to be told;
the others are served. Where it is the new state of a model that serves already, the old one goes on serving.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from auscult.inference.integrity import UntrustedModelError
from auscult.inference.loading import Model, load
from auscult.inference.model_config import WrongModelError
from auscult.platform.errors import RefuseToStart

_LOG = logging.getLogger("auscult.inference")

UNLOADED = "it was unloaded"


class UnknownModelError(LookupError):
    """There is no such model or version here."""


class RefusedModelError(Exception):
    """The model is here but is not served; the text says why."""


class LoadError(Exception):
    """What was to be loaded is refused; the text says why, and what serves meanwhile."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the repository's index: a version that is served, or a state of a model that is not."""

    name: str
    version: str
    ready: bool
    reason: str = ""


class Repository:
    """All models of one folder, loaded when it is made.

    Methods may be called from any thread; those that load take as long as it takes. A model that was found stays
    usable after it is replaced or unloaded. `threads`: per session, 0 leaves it to ONNX Runtime. RefuseToStart where
    there is no folder of models.
    """

    def __init__(self, root: Path, threads: int = 0) -> None:
        if not root.is_dir():
            raise RefuseToStart(
                "model-repository-missing", f"there is no folder {root}; set AUSCULT_MODEL_REPOSITORY to yours"
            )
        self._root = root
        self._threads = threads
        self._changing = threading.Lock()
        # Readers take no lock: these are replaced, never changed.
        self._models: Mapping[str, Model] = {}
        self._refused: Mapping[str, str] = {}
        self._states: dict[str, object] = {}
        self.poll()

    @property
    def models(self) -> Mapping[str, Model]:
        """The models that are served, by name."""
        return self._models

    @property
    def refused(self) -> Mapping[str, str]:
        """The models whose present files are not served: the reason by name."""
        return self._refused

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

    def load(self, name: str) -> None:
        """Load the model, or load it again; UnknownModelError, or LoadError where the files are refused."""
        with self._changing:
            folder = self._folders().get(name)
            if folder is None:
                raise UnknownModelError(f"the repository has no folder {name!r}")
            self._load(folder)
            if reason := self._refused.get(name):
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
        """Load what is new or has changed since it was last looked at, and unload what is gone."""
        with self._changing:
            folders = self._folders()
            for name, folder in folders.items():
                if self._states.get(name) != _state(folder):
                    self._load(folder)
            for name in self._states.keys() - folders.keys():
                del self._states[name]
                _LOG.info("model %s is served no longer: its folder is gone", name)
            self._models = {name: model for name, model in self._models.items() if name in folders}
            self._refused = {name: reason for name, reason in self._refused.items() if name in folders}

    def _folders(self) -> dict[str, Path]:
        return {path.name: path for path in sorted(self._root.iterdir()) if path.is_dir() and path.name[0] != "."}

    def _load(self, folder: Path) -> None:
        name = folder.name
        # Taken first: what changes while the files are read is seen as a change at the next look.
        self._states[name] = _state(folder)
        refused = {other: reason for other, reason in self._refused.items() if other != name}
        try:
            model = load(folder, self._threads)
        except (UntrustedModelError, WrongModelError, OSError) as error:
            self._refused = dict(sorted({**refused, name: str(error)}.items()))
            kept = "; the one loaded before goes on serving" if name in self._models else ""
            _LOG.error("model %s is not served: %s%s", name, error, kept)
        else:
            self._models = dict(sorted({**self._models, name: model}.items()))
            self._refused = refused
            _LOG.info("model %s is served, versions %s", name, ", ".join(model.sessions))


def _state(folder: Path) -> object:
    """Return what differs when a file of the folder was written, replaced, added or removed."""
    return tuple(_files(folder))


def _files(folder: Path) -> Iterator[tuple[str, int, int, int]]:
    try:
        for path in sorted(folder.rglob("*")):
            status = path.lstat()
            yield str(path), status.st_ino, status.st_size, status.st_ctime_ns
    except OSError:
        # A file went away meanwhile: whatever this is, it is not what comes next.
        yield "", -1, -1, -1
