"""The app, as Celery's first steps make one: unchanged but for what CELERY_BROKER_URL says."""

from celery import Celery

app = Celery("shop", include=["shop.tasks"])
app.conf.update(task_acks_late=True, task_track_started=True, result_expires=3600)
