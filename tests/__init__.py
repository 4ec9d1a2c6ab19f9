"""emq-compat's own tests."""
