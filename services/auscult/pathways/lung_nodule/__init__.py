"""Lung nodules on chest CT: where, how big, how likely malignant, and what the guideline advises."""

from auscult.pathways.lung_nodule.pathway import LungNodule

PATHWAY = LungNodule()
