"""The Open Inference Protocol over gRPC: server, client, ONNX sessions, model repository."""
