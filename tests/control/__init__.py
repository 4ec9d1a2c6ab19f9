"""Remote control and events as genuine Celery speaks them."""
