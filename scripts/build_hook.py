"""Build hook: what is made before the package is built or installed for editing.

The Python modules of `protos/`, and the radiomics kernels where there is a C compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "auscult/inference/pb"
KERNELS = "services/auscult/radiomics"
# No instruction that a processor may lack, and no rounding that another compiler would do otherwise.
FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-fPIC", "-shared")


class BuildHook(BuildHookInterface):
    """Generate code; the build fails where protoc does, and goes on without kernels where they do not compile."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make all that is made."""
        del version
        root = Path(self.root)
        self._protos(root)
        if self._kernels(root / KERNELS) and self.target_name == "wheel":
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def _protos(self, root: Path) -> None:
        """Compile each `.proto` into `auscult.inference.pb`, messages and type stubs; services are bound by hand."""
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

    def _kernels(self, folder: Path) -> bool:
        """Compile the kernels, and say whether that went well; without, numpy computes the same."""
        library = folder / "_kernels.so"
        library.unlink(missing_ok=True)
        compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
        if compiler is None:
            self.app.display_info("no C compiler: radiomics will count with numpy")
            return False
        command = [*compiler.split(), *FLAGS, "-o", str(library), *map(str, sorted(folder.glob("*.c"))), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(f"the radiomics kernels were not compiled, numpy does their work: {error}")
            return False
        return True
