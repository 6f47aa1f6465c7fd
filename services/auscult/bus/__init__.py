"""The event bus: CloudEvents on named topics, the contract, and its adapters for Kafka and SQLite."""
