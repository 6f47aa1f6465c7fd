"""What the system talks about. Pure: no I/O, no framework."""
