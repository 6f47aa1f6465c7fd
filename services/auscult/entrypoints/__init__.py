"""One thin file per deployable, and the command line."""
