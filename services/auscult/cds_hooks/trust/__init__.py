"""Who may call: clients, their keys and tokens, replay and rates (CDS Hooks 2.0.1, Trusting CDS Clients)."""
