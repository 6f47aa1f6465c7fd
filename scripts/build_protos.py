"""Build hook: make the Python modules of `protos/` before the package is built or installed for editing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ProtoBuildHook(BuildHookInterface):
    """Compile each `.proto` into `auscult.inference.pb`, messages and type stubs; services are bound by hand."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Run protoc; the build fails where it does."""
        del version, build_data
        root = Path(self.root)
        out = root / "services/auscult/inference/pb"
        out.mkdir(exist_ok=True)
        (out / "__init__.py").touch()
        for proto in sorted((root / "protos").glob("*.proto")):
            arguments = [
                "protoc",
                f"-I{root / 'protos'}",
                f"--python_out={out}",
                f"--pyi_out={out}",
                str(proto),
            ]
            if protoc.main(arguments) != 0:
                raise RuntimeError(f"protoc failed on {proto.name}")
