"""Torch modules, MONAI bundles and nnU-Net results, made here with tiny networks and imported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet

from auscult.domain.deadline import Deadline
from auscult.domain.model_card import ModelCard
from auscult.inference import sliding_window
from auscult.inference.client import InferenceClient
from auscult.inference.pb import model_config_pb2 as pb
from auscult.inference.repository import Repository
from auscult.inference.server import create_server

Imported = Callable[..., pb.ModelConfig]
Answer = Callable[[np.ndarray], np.ndarray]
Refused = Callable[..., str]

pytestmark = pytest.mark.filterwarnings("ignore")
IMAGES = np.random.default_rng(5).standard_normal((5, 1, 16, 16)).astype(np.float32)
VOLUMES = np.random.default_rng(5).standard_normal((3, 1, 16, 16, 16)).astype(np.float32)


class Classifier(torch.nn.Module):
    """A convolution, batch normalisation, and a mean of all pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.normalisation = torch.nn.BatchNorm2d(4)
        self.answer = torch.nn.Linear(4, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return three probabilities."""
        features = torch.relu(self.normalisation(self.convolution(image)))
        return torch.softmax(self.answer(features.mean((2, 3))), 1)


@pytest.fixture
def module() -> torch.nn.Module:
    """Return a module whose normalisation has seen something."""
    torch.manual_seed(0)
    made = Classifier()
    made(torch.randn(8, 1, 16, 16) * 3 + 1)
    return made.eval()


def expected(module: torch.nn.Module, given: np.ndarray) -> np.ndarray:
    """Return what torch answers."""
    with torch.inference_mode():
        return module(torch.from_numpy(given)).numpy()


@pytest.mark.parametrize("form", ["traced", "scripted", "exported", "pickled"])
def test_module_answers_alike(
    form: str, module: torch.nn.Module, tmp_path: Path, imported: Imported, answer: Answer
) -> None:
    """A batch of a size that importing did not see gets torch's answers."""
    example = torch.randn(2, 1, 16, 16)
    described = ("--input", "image:FP32:-1,1,16,16")
    if form == "exported":
        path, described = tmp_path / "model.pt2", ()
        torch.export.save(torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},)), path)
    elif form == "pickled":
        path, described = tmp_path / "model.pt", (*described, "--trust-pickle")
        torch.save(module, path)
    else:
        path = tmp_path / "model.pt"
        (torch.jit.trace(module, example) if form == "traced" else torch.jit.script(module)).save(path)
    config = imported(path, *described, "--labels", "none,benign,malignant")
    np.testing.assert_allclose(answer(IMAGES), expected(module, IMAGES), rtol=1e-4, atol=1e-5)
    assert config.max_batch_size > 0
    assert list(config.input[0].dims) == [1, 16, 16]


def test_weights_alone_are_refused(module: torch.nn.Module, tmp_path: Path, refused: Refused) -> None:
    """A state dict has no network."""
    torch.save(module.state_dict(), tmp_path / "model.pt")
    assert "weights-alone" in refused(tmp_path / "model.pt")


def test_input_has_to_be_described(module: torch.nn.Module, tmp_path: Path, refused: Refused) -> None:
    """TorchScript does not say what it takes, and the message shows how to say it."""
    torch.jit.script(module).save(tmp_path / "model.ts")
    assert "--input" in refused(tmp_path / "model.ts")


def test_custom_operator_is_refused(tmp_path: Path, refused: Refused) -> None:
    """What has no ONNX operator cannot be exported."""

    class Determinant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x).abs()

    torch.jit.trace(Determinant(), torch.randn(3, 4, 4)).save(tmp_path / "model.pt")
    said = refused(tmp_path / "model.pt", "--input", "x:FP32:-1,4,4")
    assert "export-fails" in said
    assert "eigvals" in said


NETWORK = {
    "_target_": "UNet",
    "spatial_dims": "@axes",
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
    "num_res_units": 1,
}
INFERENCE: dict[str, Any] = {
    "bundle_root": ".",
    "axes": "$2 + 1",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "network_def": NETWORK,
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
            {
                "_target_": "ScaleIntensityRanged",
                "keys": "image",
                "a_min": -57,
                "a_max": 164,
                "b_min": -1,
                "b_max": 1,
                "clip": True,
            },
            {"_target_": "EnsureTyped", "keys": "image"},
        ],
    },
    "inferer": {
        "_target_": "SlidingWindowInferer",
        "roi_size": [16, 16, 16],
        "sw_batch_size": 4,
        "overlap": 0.5,
        "mode": "gaussian",
    },
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "$@bundle_root + '/eval'"},
        ],
    },
}
METADATA = {
    "version": "0.1.0",
    "name": "Spleen CT segmentation",
    "description": "A tiny network.",
    "intended_use": "A test of importing, and nothing else.",
    "data_source": "Random numbers",
    "copyright": "Nobody's",
    "references": ["A citation"],
    "eval_metrics": {"mean_dice": 0.25},
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1, "spatial_shape": [16, 16, 16], "channel_def": {"0": "image"}}},
        "outputs": {"pred": {"num_channels": 2, "channel_def": {"0": "background", "1": "spleen"}}},
    },
}


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a bundle, with what is changed in its inference configuration."""
    torch.manual_seed(0)
    network = UNet(**{key: value for key, value in NETWORK.items() if key != "_target_"} | {"spatial_dims": 3})

    def write(form: str = "json", **changed: Any) -> Path:
        folder = tmp_path / "bundle"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "configs").mkdir(parents=True)
        (folder / "models").mkdir()
        (folder / "configs/metadata.json").write_text(json.dumps(METADATA, indent="\t"), encoding="utf-8")
        text = json.dumps(INFERENCE | changed, indent=4) if form == "json" else yaml.safe_dump(INFERENCE | changed)
        (folder / f"configs/inference.{form}").write_text(text, encoding="utf-8")
        torch.save(network.state_dict(), folder / "models/model.pt")
        write.network = network.eval()  # type: ignore[attr-defined]
        return folder

    return write


@pytest.mark.parametrize("form", ["json", "yaml", "zip"])
def test_bundle_declares_its_window(
    form: str, bundle: Any, tmp_path: Path, imported: Imported, answer: Answer
) -> None:
    """The network answers as MONAI's, and what comes before and after it is declared for the server to do."""
    source = bundle("yaml" if form == "yaml" else "json")
    if form == "zip":
        source = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path, "bundle"))
    config = imported(source)
    np.testing.assert_allclose(answer(VOLUMES), expected(bundle.network, VOLUMES), rtol=1e-3, atol=1e-4)
    window = sliding_window.declared(config)
    assert window is not None
    assert (window.roi_size, window.overlap, window.gaussian) == ((16, 16, 16), (0.5, 0.5, 0.5), True)
    assert window.spacing == (1.5, 1.5, 2.0)
    assert (window.axes, window.flips) == ((2, 1, 0), (True, True, False))
    (channel,) = window.normalisation
    assert channel.clip == (-57, 164)
    assert [(bound - channel.subtract) / channel.divide for bound in channel.clip] == pytest.approx([-1, 1])
    assert (window.activation, window.argmax) == ("softmax", True)
    card = ModelCard.parse((tmp_path / "models/model/card.yaml").read_text(encoding="utf-8"))
    assert (card.stage, card.clinical_use) == ("shadow", False)
    assert (card.title, card.license, card.evidence) == (METADATA["name"], "Nobody's", "A citation")
    assert [(item.metric, item.value, item.dataset) for item in card.performance] == [
        ("mean_dice", 0.25, "Random numbers")
    ]


def test_bundle_is_served_as_monai_runs_it(bundle: Any, tmp_path: Path, imported: Imported) -> None:
    """A whole volume through the service gives what the bundle's own transforms and inferer give."""
    imported(bundle())
    volume = np.random.default_rng(0).normal(50, 150, (1, 20, 24, 36)).astype(np.float32)
    root = tmp_path / "models"
    server = create_server(Repository(root, threads=1), "127.0.0.1:0", 1)
    server.start()
    try:
        with InferenceClient(f"127.0.0.1:{server.port}", root) as client:
            given = {"image": volume, "spacing": np.array([2, 1.5, 1.5], np.float32)}
            got = client.infer("model", given, deadline=Deadline.after(60), outputs=("labels", "probabilities"))
    finally:
        server.stop(None)
    right_anterior_superior = volume.transpose(0, 3, 2, 1)[:, ::-1, ::-1]
    scaled = (np.clip(right_anterior_superior, -57, 164) + 57) / 221 * 2 - 1
    inferer = SlidingWindowInferer([16, 16, 16], 4, 0.5, "gaussian")
    with torch.inference_mode():
        scores = inferer(torch.from_numpy(scaled.copy())[None], bundle.network)
    probabilities = torch.softmax(scores, 1)[0].numpy()[:, ::-1, ::-1].transpose(0, 3, 2, 1)
    np.testing.assert_allclose(got["probabilities"], probabilities, atol=1e-5)
    assert np.mean(got["labels"][0] != probabilities.argmax(0)) < 1e-4


def test_script_of_a_bundle_is_imported(bundle: Any, imported: Imported, answer: Answer) -> None:
    """A bundle that brings TorchScript alone needs no network definition."""
    folder = bundle(network_def={"_target_": "scripts.networks.Own"})
    torch.jit.trace(bundle.network, torch.from_numpy(VOLUMES)).save(folder / "models/model.ts")
    (folder / "models/model.pt").unlink()
    imported(folder)
    np.testing.assert_allclose(answer(VOLUMES), expected(bundle.network, VOLUMES), rtol=1e-3, atol=1e-4)


def _with(transform: dict[str, Any]) -> dict[str, Any]:
    return {"_target_": "Compose", "transforms": [*INFERENCE["preprocessing"]["transforms"], transform]}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"preprocessing": _with({"_target_": "HistogramNormalized", "keys": "image"})}, "HistogramNormalize"),
        ({"preprocessing": _with({"_target_": "scripts.own.Own", "keys": "image"})}, "scripts.own.Own"),
        ({"preprocessing": _with({"_target_": "NormalizeIntensityd", "keys": "image"})}, "NormalizeIntensity"),
        (
            {"postprocessing": {"_target_": "Compose", "transforms": [{"_target_": "FillHolesd", "keys": "pred"}]}},
            "FillHoles",
        ),
        ({"inferer": {"_target_": "SimpleInferer"}}, "SimpleInferer"),
        ({"network_def": {"_target_": "os.system", "command": "true"}}, "os.system"),
        ({"network_def": NETWORK | {"strides": "$__import__('os').getpid()"}}, "is Python"),
        ({"network_def": NETWORK | {"channels": [4, 16]}}, "weights"),
        ({"network_def": NETWORK | {"channels": "@network_def#channels"}}, "itself"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_bundle_cannot_carry_is_named(
    changed: dict[str, Any], named: str, bundle: Any, refused: Refused
) -> None:
    """Unknown transforms, inferers, code of the bundle's own and expressions are refused, and none is run."""
    assert named in refused(bundle(**changed))


def test_network_alone_is_imported_where_asked(bundle: Any, imported: Imported, tmp_path: Path) -> None:
    """With --network-only the patches are served, and the card says what the caller has to do."""
    folder = bundle(preprocessing=_with({"_target_": "HistogramNormalized", "keys": "image"}))
    config = imported(folder, "--network-only")
    assert sliding_window.declared(config) is None
    card = ModelCard.parse((tmp_path / "models/model/card.yaml").read_text(encoding="utf-8"))
    assert any("Only the network" in sentence for sentence in card.limitations)


ARGUMENTS = {
    "n_stages": 3,
    "features_per_stage": [4, 8, 8],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [1, 1, 1],
    "n_conv_per_stage_decoder": [1, 1],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
CONFIGURATION: dict[str, Any] = {
    "patch_size": [16, 16, 16],
    "spacing": [3.0, 0.8, 0.8],
    "normalization_schemes": ["CTNormalization"],
    "use_mask_for_norm": [False],
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": ARGUMENTS,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    },
}
OLDER = {key: value for key, value in CONFIGURATION.items() if key != "architecture"} | {
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 4,
    "unet_max_num_features": 8,
    "conv_kernel_sizes": ARGUMENTS["kernel_sizes"],
    "pool_op_kernel_sizes": ARGUMENTS["strides"],
    "n_conv_per_stage_encoder": ARGUMENTS["n_conv_per_stage"],
    "n_conv_per_stage_decoder": ARGUMENTS["n_conv_per_stage_decoder"],
}
LABELS: dict[str, Any] = {"background": 0, "liver": 1, "tumour": 2}


@pytest.fixture
def results(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a results folder as nnU-Net does, with one network a fold."""

    def write(
        configuration: dict[str, Any] = CONFIGURATION, labels: dict[str, Any] = LABELS, folds: int = 1, **plans: Any
    ) -> Path:
        folder = tmp_path / "results/nnUNetTrainer__nnUNetPlans__3d_fullres"
        folder.mkdir(parents=True)
        properties = {"mean": 90.5, "std": 20.25, "percentile_00_5": -100.0, "percentile_99_5": 300.0}
        told = {
            "dataset_name": "Dataset900_Liver",
            "transpose_forward": [0, 1, 2],
            "configurations": {"3d_fullres": configuration},
            "foreground_intensity_properties_per_channel": {"0": properties},
        } | plans
        (folder / "plans.json").write_text(json.dumps(told), encoding="utf-8")
        dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 12, "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
        layers = {
            "conv_op": torch.nn.Conv3d,
            "norm_op": torch.nn.InstanceNorm3d,
            "nonlin": torch.nn.LeakyReLU,
        }
        write.networks = []  # type: ignore[attr-defined]
        for fold in range(folds):
            torch.manual_seed(fold)
            classes = len(labels) - any(isinstance(value, list) for value in labels.values())
            network = PlainConvUNet(1, num_classes=classes, deep_supervision=True, **(ARGUMENTS | layers))
            (folder / f"fold_{fold}").mkdir()
            checkpoint = {
                "network_weights": network.state_dict(),
                "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
                "grad_scaler_state": None,
                "logging": {"mean_fg_dice": [np.float32(0.5)], "ema_fg_dice": [np.float64(0.5)]},
                "_best_ema": np.float64(0.5),
                "current_epoch": 1000,
                "init_args": {
                    "plans": told,
                    "configuration": "3d_fullres",
                    "fold": fold,
                    "device": torch.device("cpu"),
                },
                "trainer_name": "nnUNetTrainer",
                "inference_allowed_mirroring_axes": (0, 1, 2),
            }
            torch.save(checkpoint, folder / f"fold_{fold}/checkpoint_final.pth")
            network.decoder.deep_supervision = False
            write.networks.append(network.eval())  # type: ignore[attr-defined]
        return folder

    return write


def test_results_declare_their_window(results: Any, tmp_path: Path, imported: Imported, answer: Answer) -> None:
    """The network answers as nnU-Net's; patch, spacing, normalisation and blending are declared; the rest is told."""
    config = imported(results().parent, "--orientation", "SPL")
    np.testing.assert_allclose(answer(VOLUMES), expected(results.networks[0], VOLUMES), rtol=1e-3, atol=1e-4)
    window = sliding_window.declared(config)
    assert window is not None
    assert (window.roi_size, window.overlap, window.gaussian) == ((16, 16, 16), (0.5, 0.5, 0.5), True)
    assert window.mirror_axes == (0, 1, 2)
    assert (window.spacing, window.axes, window.flips) == ((3.0, 0.8, 0.8), (0, 1, 2), (False, False, False))
    (channel,) = window.normalisation
    assert (channel.clip, channel.subtract, channel.divide) == ((-100, 300), 90.5, 20.25)
    assert json.loads(config.parameters["class_names"].string_value) == list(LABELS)
    card = ModelCard.parse((tmp_path / "models/model/card.yaml").read_text(encoding="utf-8"))
    assert any("mirrored" in sentence for sentence in card.limitations)


def test_folds_are_averaged(results: Any, imported: Imported, answer: Answer) -> None:
    """Chosen folds are one graph with the mean of their logits, as nnU-Net predicts."""
    imported(results(folds=2), "--folds", "0,1", "--orientation", "RAS")
    mean = (expected(results.networks[0], VOLUMES) + expected(results.networks[1], VOLUMES)) / 2
    np.testing.assert_allclose(answer(VOLUMES), mean, rtol=1e-3, atol=1e-4)


def test_older_plans_are_understood(results: Any, imported: Imported, answer: Answer) -> None:
    """Plans from before nnU-Net 2.4 describe the network in fields of their own; axes may be transposed."""
    config = imported(results(OLDER, transpose_forward=[2, 0, 1]), "--orientation", "SPL")
    np.testing.assert_allclose(answer(VOLUMES), expected(results.networks[0], VOLUMES), rtol=1e-3, atol=1e-4)
    assert config.parameters["sliding_window.orientation"].string_value == "LSP"


def test_regions_are_masks(results: Any, imported: Imported) -> None:
    """Labels that overlap are one mask each, by sigmoid and threshold."""
    config = imported(results(labels={"background": 0, "whole": [1, 2], "core": [2]}), "--orientation", "SPL")
    window = sliding_window.declared(config)
    assert window is not None
    assert (window.activation, window.argmax, window.classes) == ("sigmoid", False, 2)


@pytest.mark.parametrize(
    ("configuration", "options", "named"),
    [
        ({}, (), "orientation-unknown"),
        (
            {"normalization_schemes": ["RescaleTo01Normalization"]},
            ("--orientation", "SPL"),
            "RescaleTo01Normalization",
        ),
        ({"previous_stage": "3d_lowres"}, ("--orientation", "SPL"), "cascade"),
        (
            {"architecture": {"network_class_name": "os.system", "arch_kwargs": {}}},
            ("--orientation", "SPL"),
            "os.system",
        ),
        ({}, ("--orientation", "SPL", "--folds", "3"), "fold 3"),
        ({}, ("--orientation", "SSS"), "orientation-wrong"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_results_cannot_carry_is_named(
    configuration: dict[str, Any], options: tuple[str, ...], named: str, results: Any, refused: Refused
) -> None:
    """What nnU-Net does and a sliding window cannot is refused by its name."""
    assert named in refused(results(CONFIGURATION | configuration), *options)


def test_several_folds_have_to_be_chosen(results: Any, refused: Refused) -> None:
    """Whether one fold or the average is meant is not guessed."""
    assert "--folds 0,1" in refused(results(folds=2), "--orientation", "SPL")
