"""A real Celery app on our parts; the only place that imports celery."""
