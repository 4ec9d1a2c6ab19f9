"""emq-compat: runs Celery-style tasks over the eventmq protocol, with a durable broker of its own."""

__version__ = "0.1.0.dev0"
