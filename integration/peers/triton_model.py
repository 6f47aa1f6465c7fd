"""What Triton's Python backend loads for each model: the graph beside it, run by ONNX Runtime with one thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
import triton_python_backend_utils as triton


class TritonPythonModel:
    """The class of that name is what the backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph of the version that is served."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        graph = Path(args["model_repository"], args["model_version"], "model.onnx")
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.inputs = [node.name for node in self.session.get_inputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request with the outputs that it asks for."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        feed = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        names = list(request.requested_output_names())
        arrays = self.session.run(names, feed)
        return triton.InferenceResponse([triton.Tensor(*output) for output in zip(names, arrays, strict=True)])
