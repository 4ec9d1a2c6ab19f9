"""The project. Whatever starts it, manage.py, a web server or a worker, imports this package first."""

from emq_compat import celery_shim

celery_shim.install()

from .celery import app as celery_app  # noqa: E402

__all__ = ["celery_app"]
