"""The dashboard's HTTP: a page, its updates as server-sent events, questions, and actions."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from emq_compat.client import Client
from emq_compat.errors import EmqError
from emq_compat.monitor.dashboard.access import COOKIE, Access, Refused, Session
from emq_compat.monitor.dashboard.actions import do
from emq_compat.monitor.dashboard.details import dead_letter, dead_letters, worker
from emq_compat.monitor.dashboard.watch import Watch
from emq_compat.monitor.dashboard.workflow import workflow

__all__ = ["Shown", "application"]

logger = logging.getLogger("emq_compat.dashboard")

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_PAGE = resources.files("emq_compat.monitor.dashboard") / "page"
#: The end of a file's name → its kind.
_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_BODY_BYTES = 64 << 10
_BROWSERS = 200
#: So often a comment is sent where nothing else is, so that proxies keep the connection.
_QUIET_S = 15.0


class _Told(JSONResponse):
    """JSON in ASCII: what tasks were given and raised may hold characters that UTF-8 can't have."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


Handler = Callable[[Request, Session], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the page shows and lets do.

    Attributes:
        url: the broker's address, without secrets.
        args: arguments and results of tasks are shown.
        read_only: nothing can be changed.
    """

    url: str
    args: bool = False
    read_only: bool = False


def application(client: Client, access: Access, shown: Shown, watch: Watch) -> Starlette:
    """Return the ASGI application.

    Args:
        client: asks the broker; used in threads.
        watch: tells the browsers.
    """
    site = _Site(client, access, shown, watch)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await watch.close()

    guarded: tuple[tuple[str, Handler, str], ...] = (
        ("/api/session", site.session, "GET"),
        ("/api/updates", site.updates, "GET"),
        ("/api/task", site.task, "GET"),
        ("/api/worker", site.worker, "GET"),
        ("/api/dead", site.dead, "GET"),
        ("/api/dead/{key:int}", site.dead_letter, "GET"),
        ("/api/do/{action}", site.act, "POST"),
        ("/api/logout", site.log_out, "POST"),
    )
    routes = [
        *(Route(path, site.checked(answer), methods=["GET"]) for path, answer in _files()),
        Route("/api/login", site.checked(site.log_in), methods=["POST"]),
        *(
            Route(path, site.checked(site.for_session(handler, changes=method == "POST")), methods=[method])
            for path, handler, method in guarded
        ),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _elsewhere})


def _files() -> Iterator[tuple[str, Callable[[Request], Awaitable[Response]]]]:
    """Yield the path and the answer of each file of the page."""
    for file in _PAGE.iterdir():
        if kind := _KINDS.get(file.name.rpartition(".")[2]):
            yield "/" if file.name == "index.html" else f"/{file.name}", _file(file.read_bytes(), kind)


def _file(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        return Response(content, media_type=kind)

    return serve


class _Site:
    """What answers the requests."""

    def __init__(self, client: Client, access: Access, shown: Shown, watch: Watch) -> None:
        self._client = client
        self._access = access
        self._shown = shown
        self._watch = watch

    # What is in front of every answer

    def checked(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Have a handler answer under our names only, with our headers; what it raises is told."""

        async def answer(request: Request) -> Response:
            try:
                self._access.check_host(request.headers.get("host", ""))
                response = await handler(request)
            except Refused as exc:
                response = _error(exc.status, str(exc))
            except EmqError as exc:
                response = _error(502, str(exc))
            response.headers.update(_HEADERS)
            return response

        return answer

    def for_session(self, handler: Handler, *, changes: bool) -> Callable[[Request], Awaitable[Response]]:
        """Have a handler answer who is let in; ``changes``: only to what our own page has sent."""

        async def answer(request: Request) -> Response:
            session = self._access.session(request.cookies.get(COOKIE))
            self._access.check_site(request.headers)
            if session is None:
                return _error(401, "log in first")
            if changes:
                self._access.check_origin(request.headers)
                self._access.check_secret(session, request.headers.get("x-emq-secret"))
            return await handler(request, session)

        return answer

    # Sessions

    async def session(self, request: Request, session: Session) -> Response:
        """Tell the page what it may, and its secret."""
        return _Told(
            {
                "secret": session.secret,
                "url": self._shown.url,
                "args": self._shown.args,
                "read_only": self._shown.read_only,
                "leaves": self._access.needs_token,
            }
        )

    async def log_in(self, request: Request) -> Response:
        """Take a token, give a cookie."""
        self._access.check_origin(request.headers)
        given = await _json(request)
        try:
            cookie = self._access.log_in(str(given.get("token", "")))
        except Refused as exc:
            logger.warning("login from %s refused: %s", _peer(request), exc)
            raise
        session = self._access.session(cookie)
        logger.info("login from %s: %s", _peer(request), session.name if session else "")
        response = _Told({"ok": True})
        response.set_cookie(
            COOKIE, cookie, httponly=True, samesite="strict", secure=request.url.scheme == "https", path="/"
        )
        return response

    async def log_out(self, request: Request, session: Session) -> Response:
        """End the session."""
        self._access.log_out(request.cookies.get(COOKIE))
        response = _Told({"ok": True})
        response.delete_cookie(COOKIE, path="/")
        return response

    # Looking

    async def updates(self, request: Request, session: Session) -> Response:
        """Tell what changes, as server-sent events."""
        if self._watch.browsers >= _BROWSERS:
            raise Refused(503, f"{_BROWSERS} pages are open, and no more can be")
        cookie = request.cookies.get(COOKIE)

        async def events() -> AsyncIterator[str]:
            yield "retry: 2000\n\n"
            updates = self._watch.updates()
            pending: asyncio.Future[str] | None = None
            try:
                # It ends with its session: the page asks again then, and is told to log in.
                while self._access.session(cookie) is not None:
                    pending = pending or asyncio.ensure_future(anext(updates))
                    done, _ = await asyncio.wait((pending,), timeout=_QUIET_S)
                    if not done:
                        yield ": quiet\n\n"
                        continue
                    try:
                        text, pending = pending.result(), None
                    except StopAsyncIteration:
                        break
                    if self._access.session(cookie) is not None:
                        yield f"data: {text}\n\n"
            finally:
                if pending is not None:
                    pending.cancel()
                    await asyncio.wait((pending,))
                await updates.aclose()

        return StreamingResponse(
            events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    async def task(self, request: Request, session: Session) -> Response:
        """Tell where a task is, and the workflow that it belongs to."""
        task_id = request.query_params.get("id", "").strip()
        if not task_id or len(task_id) > 1024:
            raise Refused(400, "which task? `id` is missing")
        beside = self._watch.beside(task_id)
        tree = await asyncio.to_thread(
            workflow, self._client, task_id, show_args=self._shown.args, beside=beside
        )
        return _Told(tree)

    async def worker(self, request: Request, session: Session) -> Response:
        """Tell what a worker says of its children."""
        name = request.query_params.get("name", "")
        return _Told(await asyncio.to_thread(worker, self._client, name, show_args=self._shown.args))

    async def dead(self, request: Request, session: Session) -> Response:
        """Tell more dead letters."""
        after = request.query_params.get("after", "0")
        if not after.isdecimal() or len(after) > 18:
            raise Refused(400, "`after` is a dead letter's number")
        return _Told(await asyncio.to_thread(dead_letters, self._client, int(after)))

    async def dead_letter(self, request: Request, session: Session) -> Response:
        """Tell more of one dead letter."""
        key = int(request.path_params["key"])
        return _Told(await asyncio.to_thread(dead_letter, self._client, key, show_args=self._shown.args))

    # Acting

    async def act(self, request: Request, session: Session) -> Response:
        """Do what an operator asks for; it is logged with who did and what it came to."""
        if self._shown.read_only:
            raise Refused(403, "this dashboard only shows: it was started with --read-only")
        action, given = request.path_params["action"], await _json(request)
        named = ascii(action)[1:-1]  # a line of the log stays one line
        who = f"{_peer(request)} ({session.name})"
        told = json.dumps({name: value for name, value in given.items() if name != "confirmed"})
        try:
            came_to = await asyncio.to_thread(do, self._client, action, given)
        except EmqError as exc:
            logger.warning("%s by %s: %s: refused: %s", named, who, told, exc)
            raise Refused(409, str(exc)) from exc
        logger.info("%s by %s: %s: %s", named, who, told, " ".join(came_to.split()))
        self._watch.look_soon()
        return _Told({"ok": came_to})


def _peer(request: Request) -> str:
    return request.client.host if request.client is not None else "?"


async def _elsewhere(request: Request, exc: Exception) -> Response:
    """Answer what is none of our paths, or asked for in another way."""
    assert isinstance(exc, HTTPException)
    response = _error(exc.status_code, exc.detail)
    response.headers.update({**_HEADERS, **(exc.headers or {})})
    return response


def _error(status: int, text: str) -> Response:
    return _Told({"error": text}, status_code=status)


async def _json(request: Request) -> Mapping[str, Any]:
    """Return the JSON object that a request holds."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise Refused(415, "what is sent must be application/json")
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _BODY_BYTES:
                raise Refused(413, "what is sent is too large")
    except ClientDisconnect as exc:
        raise Refused(400, "it broke off") from exc
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise Refused(400, "what is sent is no JSON") from exc
    if not isinstance(document, dict):
        raise Refused(400, "what is sent is no JSON object")
    return document
