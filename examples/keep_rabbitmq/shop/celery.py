"""The app, as in Celery's own guide."""

from celery import Celery

app = Celery("shop", include=["shop.tasks"])
app.config_from_object("shop.celeryconfig")
