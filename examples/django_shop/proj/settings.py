"""Settings of the shop. SHOP_DATA is the folder of its database, its mails and the bank's ledger."""

import os
from pathlib import Path

from celery.schedules import crontab

BASE_DIR = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("SHOP_DATA", BASE_DIR / "data"))

SECRET_KEY = "for the demonstration only"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "testserver"]
ROOT_URLCONF = "proj.urls"
INSTALLED_APPS = ["django.contrib.contenttypes", "orders"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "Europe/Oslo"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA / "shop.sqlite3",
        # Web server and workers write at the same time: wait for each other, rather than fail at once.
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
    }
}

EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
EMAIL_FILE_PATH = DATA / "mails"
DEFAULT_FROM_EMAIL = "shop@example.com"

BANK_LEDGER = DATA / "bank.jsonl"

CELERY_BROKER_URL = "emq://127.0.0.1"  # CELERY_BROKER_URL of the environment wins
CELERY_TASK_TIME_LIMIT = 60
CELERY_TASK_ROUTES = {"orders.tasks.send_*": {"queue": "mails"}}
# A worker without -Q serves these.
CELERY_TASK_QUEUES = {"celery": {}, "mails": {}}
#: Seconds after which an order whose payment was never begun is begun again.
RESUME_AFTER_S = float(os.environ.get("SHOP_RESUME_AFTER_S", "600"))
CELERY_BEAT_SCHEDULE = {
    "resume orders": {"task": "orders.tasks.resume_orders", "schedule": min(RESUME_AFTER_S, 60)},
    "nightly report": {
        "task": "orders.tasks.report_yesterday",
        "schedule": crontab(hour=0, minute=15),  # in TIME_ZONE
    },
}
