"""`lung_nodule_seg`: outlines lung nodules in a chest CT. Trained on the product's own phantoms only."""
