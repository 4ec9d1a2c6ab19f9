"""Celery's settings."""

import os

broker_url = os.environ.get("SHOP_BROKER", "emq://localhost")
result_backend = os.environ.get("SHOP_RESULTS", "emq://")
result_expires = 3600
task_acks_late = True
task_track_started = True
worker_prefetch_multiplier = 1
