"""The settings. The move changes the first line."""

broker_url = "redis://127.0.0.1:6379/0"

task_ignore_result = True
