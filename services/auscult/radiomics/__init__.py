"""Radiomics of a region as the IBSI defines it: the image-processing chain, and the features from models and host code."""
