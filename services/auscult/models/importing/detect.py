"""Which source it is, by what the file or folder holds."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from auscult.models.importing import (
    lightgbm_model,
    monai_bundle,
    nnunet_folder,
    onnx_file,
    sklearn_model,
    torch_module,
    xgboost_model,
)
from auscult.models.importing.source import CannotImport, Converted, Request

SUFFIXES: dict[str, Callable[[Request], Converted]] = {
    ".onnx": onnx_file.convert,
    ".skops": sklearn_model.convert,
    ".joblib": sklearn_model.convert,
    ".pkl": sklearn_model.convert,
    ".pickle": sklearn_model.convert,
    ".json": xgboost_model.convert,
    ".ubj": xgboost_model.convert,
    ".txt": lightgbm_model.convert,
    ".lgb": lightgbm_model.convert,
    ".pt": torch_module.convert,
    ".pth": torch_module.convert,
    ".ts": torch_module.convert,
    ".pt2": torch_module.convert,
}


def convert(request: Request) -> Converted:
    """Convert the source; CannotImport where it is none that is known, or is damaged."""
    try:
        return _convert(request)
    except CannotImport:
        raise
    except Exception as error:
        # Fields that are missing or of another type than their format says.
        what = f"{type(error).__name__}: {error}"
        raise CannotImport("source-malformed", f"{request.source.name} is not as its format says: {what}") from error


def _convert(request: Request) -> Converted:
    path = request.source
    if path.is_dir():
        return _folder(path)(request)
    if path.suffix == ".zip":
        return _archive(request)
    try:
        source = SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise CannotImport(
            "source-unknown",
            f"{path.name}: a folder or .zip of a MONAI bundle or nnU-Net results, or a file "
            f"{', '.join(SUFFIXES)} is expected",
        ) from None
    return source(request)


def _folder(path: Path) -> Callable[[Request], Converted]:
    if any((path / "configs" / f"metadata.{suffix}").is_file() for suffix in ("json", "yaml", "yml")):
        return monai_bundle.convert
    if (path / "plans.json").is_file() or any(path.glob("*/plans.json")):
        return nnunet_folder.convert
    raise CannotImport(
        "source-unknown",
        f"{path.name} is neither a MONAI bundle (configs/metadata.json) nor nnU-Net results (plans.json)",
    )


def _archive(request: Request) -> Converted:
    """Unpack a folder that was zipped, with or without its own name in front."""
    with tempfile.TemporaryDirectory(prefix="auscult-import-") as scratch:
        try:
            with zipfile.ZipFile(request.source) as archive:
                archive.extractall(scratch)
        except (zipfile.BadZipFile, OSError) as error:
            raise CannotImport("file-unreadable", f"{request.source.name}: {error}") from None
        root = Path(scratch)
        inner = [path for path in root.iterdir() if path.is_dir()]
        candidates = [root, *inner]
        for folder in candidates:
            try:
                source = _folder(folder)
            except CannotImport:
                continue
            return source(replace(request, source=folder))
    raise CannotImport("source-unknown", f"{request.source.name} holds neither a MONAI bundle nor nnU-Net results")
