"""``/live`` and ``/ready`` as JSON: the name of each check, whether it holds, and why not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

from emq_compat.monitor.serving import Response

__all__ = ["told"]


def told(checks: Mapping[str, str], **about: str | bool | None) -> Response:
    """Return the answer of these checks (name → what is wrong, empty: nothing): 200, or 503 if one fails.

    ``about``: further members, such as which node this is.
    """
    ok = not any(checks.values())
    document = {
        "ok": ok,
        **about,
        "checks": {name: {"ok": not why, **({"why": why} if why else {})} for name, why in checks.items()},
    }
    return Response(
        status=HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE,
        body=json.dumps(document, ensure_ascii=False).encode() + b"\n",
        kind="application/json",
    )
