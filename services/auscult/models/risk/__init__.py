"""Published risk models as ONNX graphs. Each returns its contributions beside its probability."""
