"""The shop as it was: stock eventmq's client. `python shop_stock.py COUNT`, EMQ_BROKER_ADDR says where."""

import os
import sys

import invoices
from eventmq.client import messages
from eventmq.sender import Sender

socket = Sender()
socket.connect(os.environ["EMQ_BROKER_ADDR"])
for number in range(int(sys.argv[1])):
    messages.defer_job(socket, invoices.write_invoice, args=[number, 100 * number], guarantee=True)
    messages.defer_job(
        socket,
        "invoices:Mailer.send",
        args=["you@example.org", number],
        class_kwargs={"sender": "billing@example.org"},
        queue="mail",
    )
messages.schedule(socket, invoices.report, interval_secs=5)
