"""What a model says about itself: its description, and properties that a reader of its outputs needs."""

from __future__ import annotations

from onnx import ModelProto


def describe(model: ModelProto, *, text: str, **properties: str) -> ModelProto:
    """Write `text` and `properties` into `model`; the properties also become parameters of `config.pbtxt`."""
    model.producer_name = "auscult"
    model.doc_string = text
    for key, value in sorted(properties.items()):
        model.metadata_props.add(key=key, value=value)
    return model
