"""Results out to the PACS: by STOW-RS or C-STORE, read back and compared."""
