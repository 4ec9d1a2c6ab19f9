"""``celery.beat``: what publishes periodic tasks when they are due."""
