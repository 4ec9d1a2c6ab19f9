"""``celery.schedules``: when a periodic task is due; one kind of schedule a file, over ``base``."""
