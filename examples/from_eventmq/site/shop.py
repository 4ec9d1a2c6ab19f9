"""The shop on emq-compat's client: jobs are confirmed and have results. `python shop.py COUNT`."""

import os
import sys

from emq_compat.client import client_for
from emq_compat.message import Headers, Job, Publish, new_id

client = client_for(os.environ["EMQ_BROKER_ADDR"])


def job(queue, path, callable_, *args, **class_kwargs):
    """A message with a task id: by that id its result is kept."""
    payload = Job(path=path, callable=callable_, args=args, class_kwargs=class_kwargs).encode()
    return Publish(queue=queue, headers=Headers(guarantee=True, task_id=new_id()), payload=payload)


count = int(sys.argv[1])
invoices = [job("default", "invoices", "write_invoice", number, 100 * number) for number in range(count)]
mails = [
    job("mail", "invoices:Mailer", "send", "you@example.org", number, sender="billing@example.org")
    for number in range(count)
]
client.publish_all(invoices + mails)  # on the broker's disk when this returns
totals = {
    task_id: result.reply["value"]
    for task_id, result in client.wait([message.headers.task_id for message in invoices], timeout_s=60)
}
print(f"{len(totals)} invoices, {sum(totals.values()) / 100:.2f} in all")
