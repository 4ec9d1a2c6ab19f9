"""The tasks."""

import csv
import time

from flask import current_app

from emq_compat.celery_shim import shared_task
from reports import sales

__all__ = ["tidy_up", "write_report"]


@shared_task(bind=True, ignore_result=False)
def write_report(self, year):
    """Write a year's sales into a file; tell after each month how far it is."""
    path = current_app.config["REPORTS"] / f"{self.request.id}.csv"
    rows = pieces = 0
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["day", "goods", "pieces"])
        for number in range(1, 13):
            self.update_state(state="PROGRESS", meta={"done": number - 1, "of": 12})
            for row in sales.month(year, number):
                writer.writerow(row)
                rows += 1
                pieces += row[2]
    return {"file": path.name, "rows": rows, "pieces": pieces}


@shared_task
def tidy_up():
    """Delete reports that are older than KEEP_S seconds: called every hour (beat_schedule)."""
    oldest = time.time() - current_app.config["KEEP_S"]
    for path in current_app.config["REPORTS"].glob("*.csv"):
        if path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)
