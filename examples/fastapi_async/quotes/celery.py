"""The app of the tasks: ``emq-compat -A quotes worker -P asyncio``."""

from emq_compat.celery_shim import Celery

app = Celery("quotes", broker="emq://127.0.0.1", include=["quotes.tasks"])
app.conf.update(result_expires=3600, task_soft_time_limit=20, task_time_limit=30)
