"""Settings, telemetry, errors, security. A closed list, not a place for what has no place."""
