"""Celery's events: what they are, who sends and receives them, and the state of a cluster made of them."""
