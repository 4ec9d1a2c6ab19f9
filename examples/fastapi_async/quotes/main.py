"""The web application: ``uvicorn quotes.main:web``. Nothing in it blocks the loop."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, PositiveInt

from emq_compat.celery_shim import AsyncResult, GroupResult, OperationalError, chord
from quotes.celery import app
from quotes.suppliers import SUPPLIERS
from quotes.tasks import ask, best

__all__ = ["web"]


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Connections are opened when the first task is published, in each of uvicorn's workers; closed here."""
    yield
    app.close()


web = FastAPI(title="Quotes", lifespan=lifespan)


class Wanted(BaseModel):
    """What is to be bought."""

    article: str
    pieces: PositiveInt = 1


@web.exception_handler(OperationalError)
async def broker_is_away(_: Request, error: OperationalError) -> JSONResponse:
    """Say that it is worth trying again: what wasn't confirmed was not accepted."""
    return JSONResponse({"detail": f"not now: {error}"}, status_code=503, headers={"Retry-After": "5"})


@web.post("/quotes", status_code=202)
async def order(wanted: Wanted) -> dict[str, str]:
    """Have all suppliers asked at once. Awaiting is until the broker has it on disk, some milliseconds."""
    asked = [ask.s(supplier, wanted.article, wanted.pieces) for supplier in SUPPLIERS]
    result = await chord(asked, best.s()).aapply_async()
    assert isinstance(result.parent, GroupResult)
    await asyncio.to_thread(result.parent.save)  # so that the stream finds its members
    return {"best": result.id, "stream": f"/quotes/{result.id}/stream/{result.parent.id}"}


@web.get("/quotes/{best_id}")
def poll(best_id: UUID) -> dict[str, Any]:
    """How far it is. A plain function, which FastAPI calls in a thread: asking the store blocks."""
    result = AsyncResult(str(best_id), app=app)
    state = result.state
    return {"state": state, "best": result.result if state == "SUCCESS" else None}


@web.get("/quotes/{best_id}/stream/{group_id}")
async def stream(best_id: UUID, group_id: UUID) -> StreamingResponse:
    """Send each quote as it arrives, and then the best (server-sent events)."""
    group = await asyncio.to_thread(GroupResult.restore, str(group_id), app=app)
    if group is None:
        raise HTTPException(404, "there are no such quotes")

    async def events() -> AsyncIterator[str]:
        waiting = [asyncio.ensure_future(one.aget(timeout=30, propagate=False)) for one in group.results]
        try:
            for quote in asyncio.as_completed(waiting):
                yield f"data: {json.dumps(await quote, default=repr)}\n\n"
            last = await AsyncResult(str(best_id), app=app).aget(timeout=30)
            yield f"event: best\ndata: {json.dumps(last)}\n\n"
        finally:  # whoever listened has gone: the tasks go on, waiting for them ends
            for one in waiting:
                one.cancel()

    return StreamingResponse(events(), media_type="text/event-stream")


@web.get("/suppliers")
async def supplier(supplier: str, article: str) -> dict[str, float]:
    """A supplier, played: slow, and one of them has nothing."""
    if supplier not in SUPPLIERS:
        raise HTTPException(400, "no such supplier")
    await asyncio.sleep(SUPPLIERS[supplier])
    if supplier == "closed":
        raise HTTPException(404, "nothing left")
    return {"price": len(supplier) * 1.25 + len(article)}
