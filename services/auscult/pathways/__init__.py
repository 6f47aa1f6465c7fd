"""Clinical pathways: one package each. None imports another."""
