"""Tests that import genuine Celery: run by the python of the environment `tests/environments.py` makes."""
