"""Radiomics features as ONNX graphs, tested against the consensus values of the IBSI."""
