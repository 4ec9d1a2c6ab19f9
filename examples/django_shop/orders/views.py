"""The shop on the web: JSON in, JSON out."""

import json

from django.http import JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from orders import bank
from orders.checkout import OutOfStock, place_order
from orders.models import Order, Product


@csrf_exempt
@require_POST
def place(request):
    """Place an order: ``{"email": …, "card": …, "wanted": {"chair": 2}}``."""
    try:
        said = json.loads(request.body)
        order = place_order(said["email"], said["card"], said["wanted"])
    except OutOfStock as exc:
        return JsonResponse({"error": str(exc)}, status=409)
    except (ValueError, KeyError, TypeError, Product.DoesNotExist) as exc:
        return JsonResponse({"error": f"no order: {exc!r}"}, status=400)
    return JsonResponse({"order": order.pk, "total": str(order.total)}, status=202)


@require_GET
def show(request, pk):
    """How far an order is: what to ask for until it is paid or declined."""
    order = get_object_or_404(Order.objects.select_related("invoice"), pk=pk)
    invoice = getattr(order, "invoice", None)
    return JsonResponse(
        {
            "order": order.pk,
            "status": order.status,
            "remark": order.remark,
            "attempts": bank.attempts(f"order {order.pk}"),
            "invoice": invoice.text if invoice else None,
            "sent": bool(invoice and invoice.sent_at),
            "picked": bool(invoice and invoice.picked_at),
        }
    )
