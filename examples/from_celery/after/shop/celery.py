"""The app."""

from emq_compat.celery_shim import Celery

app = Celery("shop", include=["shop.tasks"])
app.config_from_object("shop.settings")
# -- own
app.autodiscover_tasks(["shop"], related_name="own")
# -- end
