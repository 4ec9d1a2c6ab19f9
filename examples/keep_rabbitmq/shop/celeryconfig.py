"""The settings: they stay as they are."""

broker_url = "amqp://guest:guest@127.0.0.1:5672//"
result_backend = "rpc://"

task_acks_late = True
worker_prefetch_multiplier = 1
