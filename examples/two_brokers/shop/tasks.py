"""The task, as a project on Celery has it."""

import os
import time

from celery import shared_task


@shared_task(acks_late=True, bind=True, max_retries=1)
def pack(self, parcel: str) -> None:
    """Pack a parcel, and note it in the shop's book; every tenth jams once and is tried again."""
    if parcel.endswith("0") and self.request.retries == 0:
        raise self.retry(countdown=1)
    time.sleep(0.01)
    book = os.open(os.environ["SHOP_BOOK"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(book, f"{parcel}\n".encode())
    os.close(book)
