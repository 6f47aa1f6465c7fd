"""CDS Hooks: discovery, services, and cards from memory."""
