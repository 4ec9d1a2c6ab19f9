"""Clients in web servers: forks after a connection was used, reloads, event loops (cases 40 and 32)."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.processes import Proc, Procs, unused_port, wait_until
from tests.site import NAME, Site, open_site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

WSGI = f"""
import json, os
from {NAME} import app, ping

BEFORE = ping.delay("import").get(timeout=20)  # with --preload: in the master, before it forks


def application(environ, start_response):
    value = ping.delay(environ["PATH_INFO"][1:]).get(timeout=20)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([value, BEFORE, os.getpid()]).encode()]
"""

ASGI = f"""
import asyncio, json, time
from {NAME} import app, ping, sleep
from emq_compat.celery_shim import OperationalError

gaps = []


async def tick():
    last = time.monotonic()
    while True:
        await asyncio.sleep(0.01)
        last, before = time.monotonic(), last
        gaps.append(last - before)


async def answer(path):
    if path == "/many":
        results = await asyncio.gather(*(ping.adelay(str(n)) for n in range(50)))
        return [await result.aget(timeout=20) for result in results]
    if path == "/one":
        try:
            await ping.adelay("one")
        except OperationalError as exc:
            return type(exc).__name__
        return "confirmed"
    if path == "/wait":
        return await (await sleep.adelay(60)).aget()
    if path == "/gap":
        longest = max(gaps, default=0)
        gaps.clear()
        return longest


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        ticking = asyncio.ensure_future(tick())
        await receive()
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        ticking.cancel()
        app.close()
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    body = json.dumps(await answer(scope["path"])).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})
"""

DJANGO = f"""
import os, sys
from django.core.management import execute_from_command_line
from django.http import JsonResponse
from django.urls import path

SECRET_KEY = "x"
DEBUG = True
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "manage"
INSTALLED_APPS = []


def view(request, mark):
    import version
    from {NAME} import ping

    return JsonResponse([ping.delay(mark).get(timeout=20), version.NUMBER, os.getpid()], safe=False)


urlpatterns = [path("<str:mark>", view)]

if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "manage"
    execute_from_command_line(sys.argv)
"""

FORK = f"""
import asyncio, json, os, threading
from {NAME} import app, ping


def told(mark):
    first = ping.delay(mark).get(timeout=20)

    async def awaited():
        return await (await ping.adelay(mark)).aget(timeout=20)

    done = threading.Event()
    ping.delay(mark).then(lambda result: done.set())
    return [first, asyncio.run(awaited()), done.wait(20)]


def say(*what):
    os.write(1, json.dumps(what).encode() + b"\\n")


say("before", told("before"))
pid = os.fork()
who = "parent" if pid else "child"
say(who, told(who))
if not pid:
    os._exit(0)
os.waitpid(pid, 0)
say("after", told("after"))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose broker and worker run, with a web application of each kind."""
    folder = tmp_path_factory.mktemp("web")
    procs = Procs(folder)
    try:
        with open_site(folder, procs, unused_port) as made:
            for name, text in (("wsgi", WSGI), ("asgi", ASGI), ("manage", DJANGO), ("fork", FORK)):
                (made.folder / f"{name}.py").write_text(text)
            made.start_broker()
            made.start_worker("-P", "threads", "-c", "4")
            yield made
    finally:
        procs.close()


def ask(port: int, path: str, timeout_s: float = 60.0) -> Any:
    """Return what a server answers, once it listens."""

    def answer() -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=timeout_s) as said:
                return [json.load(said)]
        except ConnectionError:
            return None
        except urllib.error.URLError as exc:
            if isinstance(exc.reason, ConnectionError):
                return None
            raise

    return wait_until(answer, timeout_s)[0]


def start(site: Site, *argv: str) -> Proc:
    """Start a server."""
    return site.procs.python("-W", "ignore", *argv, cwd=site.folder)


def test_results_after_a_fork(site: Site) -> None:
    """Who has waited for results before a fork waits for them after it, in both processes, in each way."""
    program = start(site, "fork.py")
    assert 0 == program.wait(90), program.tail()
    told = dict(map(json.loads, program.output().splitlines()))
    marks = ("before", "parent", "child", "after")
    assert {mark: [mark, mark, True] for mark in marks} == told


def test_gunicorn(site: Site) -> None:
    """With --preload the master publishes and waits before it forks; its workers do, also after a HUP."""
    port = unused_port()
    argv = ("--preload", "-w", "2", "--threads", "4", "-b", f"127.0.0.1:{port}", "wsgi:application")
    server = start(site, "-m", "gunicorn", *argv)
    first = ask_many(port)
    assert {(f"{n}", "import") for n in range(20)} == {(value, before) for value, before, _ in first}
    server.send_signal(signal.SIGHUP)
    old = {pid for *_, pid in first}
    wait_until(lambda: not old & {child.pid for child in server.children()}, 30, what="new workers")
    assert {(f"{n}", "import") for n in range(20)} == {(value, before) for value, before, _ in ask_many(port)}
    assert 0 == server.stop(30)


def ask_many(port: int) -> list[Any]:
    """Return the answers to twenty requests at once."""
    ask(port, "first")
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda n: ask(port, str(n)), range(20)))


def test_runserver_reloads(site: Site) -> None:
    """Django's development server reloads changed code, and goes on publishing from its threads."""
    version = site.folder / "version.py"
    version.write_text("NUMBER = 1\n")
    port = unused_port()
    server = start(site, "manage.py", "runserver", f"127.0.0.1:{port}")
    value, number, pid = ask(port, "a")
    assert ("a", 1) == (value, number)
    version.write_text("NUMBER = 22\n")

    def reloaded() -> bool:
        os.utime(version)  # newer at each look: the reloader may not have seen the file before it changed
        return bool(ask(port, "b")[1] == 22)

    wait_until(reloaded, 60, interval_s=0.3, what="the new code")
    value, _, new_pid = ask(port, "c")
    assert "c" == value
    assert pid != new_pid
    server.send_signal_to_group(signal.SIGINT)
    assert 0 == server.wait(30)


@pytest.fixture
def uvicorn(site: Site) -> Iterator[tuple[Proc, int]]:
    """The application under uvicorn, and its port."""
    port = unused_port()
    argv = ("uvicorn", "asgi:application", "--port", f"{port}", "--timeout-graceful-shutdown", "1")
    server = start(site, "-m", *argv)
    ask(port, "gap")
    yield server, port
    server.stop(30)


def test_the_loop_goes_on(
    site: Site, uvicorn: tuple[Proc, int], procs_stopped: Callable[[Proc], None]
) -> None:
    """Publishing and waiting holds the loop up for moments only, also where the broker stands still."""
    _, port = uvicorn
    assert [str(n) for n in range(50)] == ask(port, "many")
    assert site.broker is not None
    ask(port, "gap")
    procs_stopped(site.broker)
    began = time.monotonic()
    assert "OperationalError" == ask(port, "one")
    took_s = time.monotonic() - began
    assert took_s > 2
    assert ask(port, "gap") < took_s / 3
    site.broker.send_signal(signal.SIGCONT)
    wait_until(lambda: ask(port, "one") == "confirmed", 30)


@pytest.fixture
def procs_stopped() -> Iterator[Callable[[Proc], None]]:
    """A function that stops a process; it goes on at the end."""
    stopped: list[Proc] = []

    def stop(proc: Proc) -> None:
        stopped.append(proc)
        proc.send_signal(signal.SIGSTOP)

    yield stop
    for proc in stopped:
        proc.send_signal(signal.SIGCONT)


def test_a_view_that_waits_doesn_t_hold_up_the_end(site: Site, uvicorn: tuple[Proc, int]) -> None:
    """uvicorn ends in its time although a view waits for a result and sockets are open."""
    server, port = uvicorn
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, port, "wait")
        site.wait_runs("start sleep")
        began = time.monotonic()
        assert -signal.SIGTERM == server.stop(30)  # uvicorn ends by the signal, once it has shut down
        assert time.monotonic() - began < 15
        assert waiting.exception(30) is not None
