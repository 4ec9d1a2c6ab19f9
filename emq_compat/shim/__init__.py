"""A Celery-style API on emq-compat's broker; ``emq_compat.celery_shim`` is its public face."""
