"""Build hook: make the Python modules of `protos/` before the package is built or installed for editing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "auscult/inference/pb"


class ProtoBuildHook(BuildHookInterface):
    """Compile each `.proto` into `auscult.inference.pb`, messages and type stubs; services are bound by hand."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Run protoc; the build fails where it does."""
        del version, build_data
        root = Path(self.root)
        out = root / "services" / PACKAGE
        out.mkdir(exist_ok=True)
        (out / "__init__.py").touch()
        for proto in sorted((root / "protos").glob("*.proto")):
            # protoc derives the generated modules' imports from where it is told that a file lies. So `protos/`
            # is shown to it as the package's folder; names on the wire come from each file's own `package`.
            arguments = [
                "protoc",
                f"-I{PACKAGE}={root / 'protos'}",
                f"--python_out={root / 'services'}",
                f"--pyi_out={root / 'services'}",
                f"{PACKAGE}/{proto.name}",
            ]
            if protoc.main(arguments) != 0:
                raise RuntimeError(f"protoc failed on {proto.name}")
