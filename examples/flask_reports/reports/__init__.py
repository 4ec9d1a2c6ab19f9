"""A Flask application that writes reports in the background."""

import os
from pathlib import Path

from flask import Flask

from emq_compat.celery_shim import Celery, Task
from reports import views

__all__ = ["celery_init_app", "create_app"]


def create_app(config=None):
    """Return the application. Reports are kept below REPORTS_DATA, or in the instance folder."""
    app = Flask(__name__)
    folder = Path(os.environ.get("REPORTS_DATA", app.instance_path)) / "reports"
    app.config.from_mapping(
        REPORTS=folder,
        KEEP_S=24 * 3600,
        CELERY={
            "broker_url": "emq://127.0.0.1",  # CELERY_BROKER_URL of the environment wins
            "task_ignore_result": True,  # but for tasks that say otherwise
            "task_time_limit": 120,
            "imports": ["reports.tasks"],
            "beat_schedule": {"tidy up": {"task": "reports.tasks.tidy_up", "schedule": 3600}},
        },
    )
    app.config.from_mapping(config or {})
    folder = app.config["REPORTS"]
    folder.mkdir(parents=True, exist_ok=True)
    celery_init_app(app)
    app.register_blueprint(views.blueprint)
    return app


def celery_init_app(app):
    """Return the Celery app of a Flask application, whose tasks run in its context."""

    class FlaskTask(Task):
        def __call__(self, *args, **kwargs):
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.set_default()
    app.extensions["celery"] = celery_app
    return celery_app
