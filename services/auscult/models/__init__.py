"""How the ONNX graphs are authored, trained and described."""
