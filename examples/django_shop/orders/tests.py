"""The shop's own tests: ``manage.py test``. They need no broker and no worker."""

import shutil
import tempfile
from decimal import Decimal
from pathlib import Path

from django.core import mail
from django.test import TestCase, override_settings
from django.utils import timezone

from orders import bank
from orders.checkout import OutOfStock, place_order
from orders.models import Invoice, Order, Product, Report
from orders.tasks import payment_of, report_yesterday, resume_orders, save_report


@override_settings(CELERY_TASK_ALWAYS_EAGER=True)
class ShopTest(TestCase):
    """Tasks run in place, inside of the test's transaction."""

    def setUp(self):
        """Fill the shelf; give the bank an empty ledger."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        ledger = override_settings(BANK_LEDGER=Path(folder) / "bank.jsonl")
        ledger.enable()
        self.addCleanup(ledger.disable)
        Product.objects.create(name="chair", price=Decimal("19.50"), stock=3)
        Product.objects.create(name="table", price=Decimal("80.00"), stock=1)

    def post(self, **order):
        """Place an order over the web, with its transaction committed."""
        with self.captureOnCommitCallbacks(execute=True):
            return self.client.post("/orders/", order, content_type="application/json")

    def test_an_order_is_paid_invoiced_and_picked(self):
        """The whole way, with a bank that answers at the third try."""
        answer = self.post(email="a@example.com", card="1 0002", wanted={"chair": 2, "table": 1})
        self.assertEqual(202, answer.status_code)
        shown = self.client.get(f"/orders/{answer.json()['order']}/").json()
        told = tuple(shown[name] for name in ("status", "attempts", "sent", "picked"))
        self.assertEqual(("paid", 3, True, True), told)
        self.assertIn("Total: 119.00", shown["invoice"])
        self.assertEqual(2, len(mail.outbox))

    def test_a_declined_card_ends_it(self):
        """No invoice, and the order says why. (What fails in an eager chain is raised at once.)"""
        with self.assertRaises(bank.CardDeclined):
            self.post(email="b@example.com", card="1 0000", wanted={"chair": 1})
        order = Order.objects.get()
        self.assertEqual(("declined", "card declined"), (order.status, order.remark))
        self.assertFalse(Invoice.objects.exists())

    def test_what_is_rolled_back_sends_nothing(self):
        """An order that can't be filled leaves neither rows nor tasks."""
        with self.captureOnCommitCallbacks() as callbacks, self.assertRaises(OutOfStock):
            place_order("c@example.com", "1", {"chair": 1, "table": 2})
        self.assertEqual([], callbacks)
        self.assertFalse(Order.objects.exists())
        self.assertEqual(3, Product.objects.get(name="chair").stock)

    def test_what_was_never_begun_is_begun(self):
        """Orders whose tasks were never sent, once they are old enough; each is paid and sent once."""
        place_order("d@example.com", "1", {"chair": 1})  # its transaction's hooks are not called
        resume_orders.delay()
        self.assertEqual("placed", Order.objects.get().status)
        with override_settings(RESUME_AFTER_S=0):
            resume_orders.delay()
            resume_orders.delay()
        self.assertEqual("paid", Order.objects.get().status)
        self.assertEqual(1, len(mail.outbox))
        payment_of(Order.objects.get()).delay()
        self.assertEqual(1, len(mail.outbox))

    def test_a_payment_is_made_once(self):
        """The same key is one payment."""
        for _ in range(2):
            bank.charge("1", 5, key="order 9")
        self.assertEqual(1, bank.attempts("order 9"))

    def test_a_report(self):
        """A day's report has each order once, and is replaced when it is made again."""
        parts = [{"revenue": Decimal("1.50"), "orders": [1, 2]}, {"revenue": Decimal(3), "orders": [2]}]
        for _ in range(2):
            save_report(parts, "2026-03-01")
        self.assertEqual((2, Decimal("4.50")), Report.objects.values_list("orders", "revenue").get())

    def test_the_nightly_report(self):
        """It is yesterday's."""
        report_yesterday.delay()
        self.assertEqual(timezone.localdate().toordinal() - 1, Report.objects.get().day.toordinal())
