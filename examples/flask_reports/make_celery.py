"""For the worker: emq-compat -A make_celery worker."""

from reports import create_app

flask_app = create_app()
celery_app = flask_app.extensions["celery"]
