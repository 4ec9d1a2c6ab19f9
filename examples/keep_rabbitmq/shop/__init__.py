"""A shop whose work is done by Celery."""

from shop.celery import app

__all__ = ["app"]
