"""What a code base on Celery comes to here: the list of names, and what looks for them."""
