"""Workflows: signatures and what is composed of them, in Celery's own JSON layout; kinds.py has all names."""
