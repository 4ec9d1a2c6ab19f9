"""What browsers ask: order a report, ask how far it is, fetch it."""

from flask import Blueprint, current_app, request, send_from_directory, url_for

from emq_compat.celery_shim import AsyncResult
from reports import tasks

__all__ = ["blueprint"]

blueprint = Blueprint("reports", __name__)


@blueprint.post("/reports")
def order():
    """Have a report written: ``{"year": 2025}``. Answers at once, with where to ask."""
    year = (request.get_json(silent=True) or {}).get("year")
    if not isinstance(year, int) or not 1900 <= year <= 2100:
        return {"error": "which year? {'year': 2025}"}, 400
    result = tasks.write_report.delay(year)
    return {"report": result.id, "status": url_for(".status", report=result.id)}, 202


@blueprint.get("/reports/<uuid:report>")
def status(report):
    """How far it is; its file, once it is there."""
    told = AsyncResult(str(report)).backend.get_task_meta(str(report))  # state and value of one moment
    state, value = told["status"], told["result"]
    answer = {"state": state}
    if state == "PROGRESS":
        answer |= value
    elif state == "SUCCESS":
        answer |= value | {"file": url_for(".file", report=report)}
    elif state == "FAILURE":
        answer["error"] = str(value)
    return answer


@blueprint.get("/reports/<uuid:report>/file")
def file(report):
    """The report itself."""
    return send_from_directory(current_app.config["REPORTS"], f"{report}.csv")
