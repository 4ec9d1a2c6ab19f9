"""An ordinary Celery module: only the import differs."""

import hashlib
import time
from pathlib import Path

from emq_compat.celery_shim import Celery

app = Celery("quickstart")


@app.task
def count_primes(limit):
    """CPU: how many primes are below `limit`."""
    sieve = bytearray([1]) * limit
    sieve[:2] = b"\0\0"
    for n in range(2, int(limit**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, limit, n)))
    return sum(sieve)


@app.task
def checksum(folder, pattern="*.py"):
    """I/O: one SHA-256 over the files of a folder."""
    digest, files = hashlib.sha256(), sorted(Path(folder).glob(pattern))
    for file in files:
        digest.update(file.read_bytes())
    return {"files": len(files), "sha256": digest.hexdigest()[:16]}


@app.task
def divide(a, b):
    """Fails when b is 0."""
    return a / b


@app.task(bind=True, max_retries=3, default_retry_delay=1)
def fetch_rate(self, currency):
    """Retries: the service it asks is down the first two times."""
    try:
        if self.request.retries < 2:
            raise ConnectionError("the exchange did not answer")
        return {"currency": currency, "rate": 1.0832, "tries": self.request.retries + 1}
    except ConnectionError as exc:
        raise self.retry(exc=exc) from exc


@app.task
def remind(text, due):
    """Scheduled: says how late it came, in milliseconds."""
    return f"{text} ({(time.time() - due) * 1000:.0f} ms after its time)"


@app.task
def add(x, y):
    """As short as a task can be."""
    return x + y
