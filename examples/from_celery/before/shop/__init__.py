"""A small shop on Celery."""

from .celery import app

__all__ = ["app"]
