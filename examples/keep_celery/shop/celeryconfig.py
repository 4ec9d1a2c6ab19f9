"""The settings. The move changes the first two lines, and nothing else in this project."""

broker_url = "redis://127.0.0.1:6379/0"
result_backend = "redis://127.0.0.1:6379/0"

task_acks_late = True
task_track_started = True
beat_schedule = {"count the till": {"task": "shop.tasks.count_till", "schedule": 1.0}}
