"""``manage.py report``: have today reported, and wait for it."""

from django.core.management.base import BaseCommand
from django.utils import timezone
from proj import celery_app

from orders.tasks import report_day


class Command(BaseCommand):
    """The command."""

    help = "Report today, as the nightly task reports yesterday."

    def handle(self, **options):
        """Publish it and print what it comes to."""
        chord_id = report_day.delay(timezone.localdate().isoformat()).get(timeout=60)
        self.stdout.write(celery_app.AsyncResult(chord_id).get(timeout=60))
