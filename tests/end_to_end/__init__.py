"""The product as a whole; a package, so that it ends when its tests have run."""
