"""The kombu transport `emq://`."""
