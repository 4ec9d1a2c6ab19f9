"""Placing an order: everything in one transaction, and the work that follows once it is committed."""

from django.db import transaction
from django.db.models import F

from orders import tasks
from orders.models import Order, Product


class OutOfStock(Exception):
    """There isn't enough of a product."""


@transaction.atomic
def place_order(email, card, wanted):
    """Return the new order of ``wanted``: name of a product → how many.

    Raises:
        OutOfStock: the transaction is rolled back, and with it all that would have been sent.
        Product.DoesNotExist: there is no such product.
    """
    order = Order.objects.create(email=email, card=card)
    # The worker may be faster than this transaction: it would look for an order that isn't there yet.
    tasks.send_confirmation.delay_on_commit(order.pk)
    transaction.on_commit(tasks.payment_of(order).delay)
    for name, count in wanted.items():
        product = Product.objects.get(name=name)
        if not Product.objects.filter(pk=product.pk, stock__gte=count).update(stock=F("stock") - count):
            raise OutOfStock(f"only {product.stock} × {name} left")
        order.lines.create(product=product, count=count, price=product.price)
    return order
