"""Making a model that can be run of its verified files: configuration and card first, then the graph."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import onnxruntime as ort

from auscult.domain.model_card import InvalidCardError, ModelCard
from auscult.inference import custom_operators, model_config, sliding_window
from auscult.inference.config_checks import WrongModelError, check_files
from auscult.inference.device_session import opened
from auscult.inference.external_data import check_external_data
from auscult.inference.integrity import Trust
from auscult.inference.manifest import CARD
from auscult.inference.model_config import Signature
from auscult.inference.pb import model_config_pb2 as pb
from auscult.inference.providers import Devices, Plan, plan
from auscult.inference.sliding_window import SlidingWindow
from auscult.inference.warmup import warm_up

CONFIG = "config.pbtxt"

STAGE = "auscult_stage"
"""The parameter of a served configuration that tells the card's stage, so that a client can tell a shadow."""

_BY_VALUE = (
    *(
        "Loop",
        "Scan",
        "SequenceMap",
        "Range",
        "ConstantOfShape",
        "Expand",
        "Tile",
        "Resize",
        "Upsample",
        "Pad",
        "OneHot",
    ),
    *("CenterCropPad", "Col2Im", "MaxUnpool", "AffineGrid", "HannWindow", "HammingWindow", "BlackmanWindow"),
    *("MelWeightMatrix", "DFT", "STFT"),
)
"""ONNX's operators whose work depends on values, not only on shapes."""

_MISSING: Mapping[str, str] = {CARD: "; `auscult models seal` writes one to complete"}
"""What to do where a file is missing."""

_VERSION = re.compile("[1-9][0-9]*")


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Model:
    """One model that is served: `sessions` by version, the latest last. A reloaded model is another one."""

    name: str
    config: pb.ModelConfig
    signature: Signature
    card: ModelCard | None
    """None where a request brought the model; results of such a model are not published."""
    sessions: Mapping[str, ort.InferenceSession]
    window: SlidingWindow | None = None
    """Of a model of patches: `config` and `signature` are then those of whole volumes."""
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By output that has them: what its elements stand for."""
    bounded: bool = False
    """Whether the shapes of its inputs alone decide how long it runs, whatever the values."""

    @property
    def latest(self) -> str:
        """The version that answers where none is asked for."""
        return tuple(self.sessions)[-1]


def load(
    name: str,
    files: Mapping[str, bytes],
    threads: int,
    trust: Trust,
    override: pb.ModelConfig | None = None,
    *,
    devices: Devices | None = None,
) -> Model:
    """Make the model of verified files; UntrustedModelError or WrongModelError say why it cannot be served.

    `threads`: per session, 0 leaves it to ONNX Runtime. `override`: a configuration that holds instead of
    config.pbtxt; a card is not needed then. `devices`: without them a model runs on the CPU.
    """
    # As with Triton: what a configuration leaves out is the graph's, even all of it.
    config = override or model_config.parse(_text(files, CONFIG) if CONFIG in files else "", name)
    check_files(config, files)
    present = {int(top) for path in files if _VERSION.fullmatch(top := path.partition("/")[0])}
    versions = model_config.served_versions(config, present)
    optional = override is not None and CARD not in files
    card = None if optional else _card(_text(files, CARD), name, str(versions[-1]))
    devices = devices or Devices()
    planned = plan(config, devices)
    sessions = {
        str(version): opened(
            partial(_session, files, version, config, threads=threads, trust=trust), planned, devices
        )
        for version in versions
    }
    model_config.complete(config, sessions[str(versions[-1])])
    signature = model_config.signature(config)
    for session in sessions.values():
        model_config.compare(signature, session)
    window = sliding_window.declared(config)
    warm_up(config, signature, files, sessions)
    if window:
        config, signature = sliding_window.of_volumes(config, window), window.signature
    if card:
        config.parameters[STAGE].string_value = card.stage
    labels = {
        output.name: _text(files, output.label_filename).splitlines()
        for output in config.output
        if output.label_filename
    }
    graphs = [data for path, data in files.items() if path.endswith(f"/{config.default_model_filename}")]
    bounded = window is None and not any(_of_values(graph) for graph in graphs)
    return Model(name, config, signature, card, sessions, window, labels, bounded)


def _of_values(graph: bytes) -> bool:
    """Whether a graph has, at any depth, an operator that a value can make run longer: found as NodeProto.op_type."""
    return any(b"\x22" + bytes([len(name)]) + name.encode() in graph for name in _BY_VALUE)


def stage(files: Mapping[str, bytes]) -> str:
    """Return the stage that the card among verified files tells; empty where it cannot be read."""
    try:
        return ModelCard.parse(_text(files, CARD)).stage
    except (InvalidCardError, WrongModelError):
        return ""


def _text(files: Mapping[str, bytes], path: str) -> str:
    try:
        return files[path].decode()
    except KeyError:
        raise WrongModelError(f"{path} is missing{_MISSING.get(path, '')}") from None
    except UnicodeDecodeError:
        raise WrongModelError(f"{path} is not UTF-8 text") from None


def _card(text: str, name: str, version: str) -> ModelCard:
    try:
        card = ModelCard.parse(text)
    except InvalidCardError as error:
        raise WrongModelError(f"card.yaml: {error}") from None
    if (card.name, card.version) != (name, version):
        raise WrongModelError(
            f"card.yaml is for {card.name!r} version {card.version}, the model is {name!r} version {version}"
        )
    return card


def _session(
    files: Mapping[str, bytes],
    version: int,
    config: pb.ModelConfig,
    planned: Plan,
    *,
    threads: int,
    trust: Trust,
) -> ort.InferenceSession:
    """Make a session from bytes that were verified, and from no others."""
    filename = config.default_model_filename
    folder = {
        path.removeprefix(f"{version}/"): data for path, data in files.items() if path.startswith(f"{version}/")
    }
    if filename not in folder:
        raise WrongModelError(f"{version}/{filename} is missing")
    check_external_data(folder[filename], f"{version}/{filename}", folder)
    options = ort.SessionOptions()
    # ONNX Runtime's own format, which it would guess, was not looked through.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Several models and services share the cores: a thread that spins while it waits takes them from the others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Failures are raised, and reported without tensor values, which ONNX Runtime's own log lines may contain.
    options.log_severity_level = 4
    # With this table ONNX Runtime takes external weights from it alone and never opens a file. It always has
    # an entry, the graph's own file, because an empty table would make it look on disk.
    options.add_external_initializers_from_files_in_memory(
        list(folder), list(folder.values()), [len(data) for data in folder.values()]
    )
    custom_operators.register(options, config, files, trust)
    try:
        return ort.InferenceSession(folder[filename], options, providers=list(planned.providers))
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no class of their own
        raise WrongModelError(f"ONNX Runtime cannot load {version}/{filename}: {error}") from None
