"""The shop's tasks: as they would be written for Celery."""

from datetime import date, timedelta
from decimal import Decimal

from celery import chain, chord, group, shared_task
from celery.utils.log import get_task_logger
from django.conf import settings
from django.core.mail import send_mail
from django.utils import timezone

from orders import bank
from orders.models import Invoice, Order, Product, Report

logger = get_task_logger(__name__)


@shared_task
def send_confirmation(order_id):
    """Tell the customer that the order has arrived."""
    order = Order.objects.get(pk=order_id)
    send_mail(f"Order {order.pk}", f"Thank you! It costs {order.total}.", None, [order.email])


@shared_task(
    bind=True,
    acks_late=True,  # a worker that is lost in between is no reason to forget the money …
    autoretry_for=(bank.BankDown,),
    retry_backoff=1,
    retry_jitter=False,
    max_retries=5,
    throws=(bank.CardDeclined,),
)
def charge(self, order_id):
    """Take the money; the order's id goes on to the next step."""
    order = Order.objects.get(pk=order_id)
    Order.objects.filter(pk=order_id, begun_at=None).update(begun_at=timezone.now())
    try:
        bank.charge(order.card, order.total, key=f"order {order.pk}")  # … and the key, to take it once
    except bank.CardDeclined as exc:
        Order.objects.filter(pk=order_id).update(status=Order.Status.DECLINED, remark=str(exc))
        raise
    Order.objects.filter(pk=order_id).update(status=Order.Status.PAID)
    logger.info("order %d is paid at try %d", order_id, self.request.retries + 1)
    return order_id


@shared_task
def give_up(order_id):
    """Note that an order can't be paid, unless it is known why."""
    Order.objects.filter(pk=order_id, status=Order.Status.PLACED).update(
        status=Order.Status.UNPAID, remark="the bank can't be reached"
    )


@shared_task
def write_invoice(order_id):
    """Write an order's invoice; its id goes on to the next steps."""
    order = Order.objects.get(pk=order_id)
    lines = [f"{line.count} × {line.product.name}: {line.count * line.price}" for line in order.lines.all()]
    text = "\n".join([f"Invoice of order {order.pk}", *lines, f"Total: {order.total}"])
    invoice, _ = Invoice.objects.get_or_create(order=order, defaults={"text": text})
    return invoice.pk


@shared_task
def send_invoice(invoice_id):
    """Send an invoice to the customer, once: whoever notes that it is sent is the one to send it."""
    if Invoice.objects.filter(pk=invoice_id, sent_at=None).update(sent_at=timezone.now()):
        invoice = Invoice.objects.get(pk=invoice_id)
        send_mail(f"Invoice of order {invoice.order_id}", invoice.text, None, [invoice.order.email])


@shared_task
def tell_warehouse(invoice_id):
    """Have the goods picked."""
    Invoice.objects.filter(pk=invoice_id).update(picked_at=timezone.now())


def payment_of(order):
    """Return the workflow of an order: money, then the invoice, then customer and warehouse at once."""
    return chain(
        charge.s(order.pk).on_error(give_up.si(order.pk)),
        write_invoice.s(),
        group(send_invoice.s(), tell_warehouse.s()),
    )


@shared_task
def resume_orders():
    """Begin what was never begun: orders that were committed while the broker couldn't be reached."""
    oldest = timezone.now() - timedelta(seconds=settings.RESUME_AFTER_S)
    for order in Order.objects.filter(status=Order.Status.PLACED, begun_at=None, placed_at__lt=oldest):
        payment_of(order).delay()


@shared_task
def report_yesterday():
    """Report the day that has just ended: called every night (CELERY_BEAT_SCHEDULE)."""
    report_day.delay((timezone.localdate() - timedelta(days=1)).isoformat())


@shared_task
def report_day(day):
    """Have every product's revenue of a day (YYYY-MM-DD) counted, and all of them summed up."""
    header = [revenue.s(pk, day) for pk in Product.objects.values_list("pk", flat=True)]
    return chord(header, save_report.s(day)).delay().id


@shared_task
def revenue(product_id, day):
    """Return what a product brought on a day, and with which orders."""
    lines = Product.objects.get(pk=product_id).line_set.filter(
        order__status=Order.Status.PAID, order__placed_at__date=date.fromisoformat(day)
    )
    return {
        "revenue": sum((line.count * line.price for line in lines), Decimal(0)),
        "orders": sorted({line.order_id for line in lines}),
    }


@shared_task
def save_report(products, day):
    """Write a day's report down; run again it replaces the one before."""
    orders = {order for product in products for order in product["orders"]}
    total = sum(product["revenue"] for product in products)
    Report.objects.update_or_create(
        day=date.fromisoformat(day), defaults={"orders": len(orders), "revenue": total}
    )
    return f"{day}: {len(orders)} orders, {total}"
