"""``import celery`` where Celery isn't installed: which module and name of Celery's is which of ours."""
