"""Radiomics as the IBSI defines it: the image-processing chain, and features from models and code beside them."""
