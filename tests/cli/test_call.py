"""`emq-compat call`."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from emq_compat.cli.call import Call, plain_publish
from emq_compat.client import Client
from tests.cli.conftest import Site
from tests.processes import wait_until

pytestmark = [pytest.mark.integration]


def test_task_of_an_app_is_called_and_waited_for(site: Site) -> None:
    """`call -A` publishes a task by its name into its own queue; --wait prints what it returned, as JSON."""
    site.start_broker()
    site.start_worker()

    assert "5\n" == site.emq("call", "-A", "proj", "proj.add", "-a", "[2, 3]", "--wait", "30")
    assert '"ab"\n' == site.emq("-A", "proj", "call", "proj.add", "-k", '{"x": "a", "y": "b"}', "-t", "30")
    assert "0\n" == site.emq("call", "-A", "proj", "proj.sleep", "-a", "[0]", "-t", "30")
    half = site.emq("call", "-A", "proj", "proj.add", "-a", '["\\ud800", ""]', "-t", "30")
    assert '"\\ud800"\n' == half, "half a surrogate pair, which UTF-8 can't write, stays escaped"

    told = site.emq("call", "-A", "proj", "proj.fail", "-a", '["no\\u001b[31m"]', "-t", "30", status=1)
    assert "ended as FAILURE: ValueError: no\\x1b[31m" in told
    traced = site.run("call", "-A", "proj", "proj.fail", "-a", '["no"]', "-t", "30", "--traceback")
    assert "Traceback (most recent call last)" in traced.stderr
    assert 1 == traced.returncode


def test_an_interrupt_of_the_waiting_tells_the_id(site: Site) -> None:
    """Ctrl-C ends the waiting, not the task, and says how to learn what becomes of it."""
    site.start_broker()
    waiting = site.procs.emq("call", "-A", "proj", "proj.add", "-a", "[2, 3]", "-t", "60", "--task-id", "one",
                             "-b", site.url, cwd=site.folder)  # fmt: skip
    wait_until(lambda: "it waits" in site.run("result", "one", "-b", site.url).stderr, 20, what="the call")
    os.kill(waiting.pid, signal.SIGINT)
    assert 1 == waiting.wait(20)
    assert "one is published: emq-compat result one tells what becomes of it" in waiting.output()


def test_plain_functions_are_called_by_their_path(site: Site) -> None:
    """`call MODULE:FUNCTION` needs no app: a job manager runs the function, or the class's method."""
    site.start_broker()
    site.start_jobmanager()

    assert "42\n" == site.emq("call", "-b", site.url, "functions:double", "-a", "[21]", "-t", "40")
    env = {"EMQ_BROKER_ADDR": site.url}
    greet = ("call", "functions:Greeter.greet", "-k", '{"name": "Ada"}', "-t", "40")
    assert '"hello Ada"\n' == site.emq(*greet, env=env)
    assert "NotAllowed" in site.emq("call", "-b", site.url, "os:getcwd", "-t", "40", status=1)


def test_id_is_printed_and_options_reach_the_broker(site: Site) -> None:
    """Without --wait the id is printed, by which the message waits in the broker with its options."""
    site.start_broker()

    assert "mine\n" == site.emq(
        "call", "-A", "proj", "proj.add", "-a", "[1, 2]", "--task-id", "mine", "-Q", "q"
    )
    later = site.emq(
        "call", "-A", "proj", "proj.add", "-a", "[1, 2]", "--countdown", "3600", "--priority", "9"
    )
    assert 36 == len(later.strip())
    site.emq("call", "-b", site.url, "functions:double", "--eta", "2100-01-01T00:00:00Z", "--expires", "60")

    with Client(site.url) as client:
        queues = {queue["name"]: (queue["waiting"], queue["delayed"]) for queue in client.ask("queues")}
    assert {"q": (1, 0), "celery": (0, 1), "default": (0, 1)} == queues


def test_a_queue_that_nobody_listens_on_is_told(site: Site) -> None:
    """When --wait has been in vain, and no worker would take the call, its queue is named."""
    site.start_broker()
    plain = ("-b", site.url, "-Q", "slow", "functions:double")
    for argv in (("-A", "proj", "proj.sleep", "-a", "[0]"), plain):
        told = site.emq("call", *argv, "--wait", "0.2", status=1)
        assert "not done after 0.2 s: it waits in the queue 'slow', to which no worker listens" in told
    site.start_worker()
    told = site.emq("call", "-A", "proj", "proj.sleep", "-a", "[5]", "--wait", "0.2", status=1)
    assert "not done after 0.2 s: it was handed out to the worker " in told


def test_eta_holds_a_task_back(site: Site) -> None:
    """A task with --countdown runs when its time has come, not before."""
    site.start_broker()
    site.start_worker()
    began = time.monotonic()

    assert "3\n" == site.emq("call", "-A", "proj", "proj.add", "-a", "[1, 2]", "--countdown", "2", "-t", "30")

    assert time.monotonic() - began >= 2


def test_unknown_task_is_noted_and_published(site: Site) -> None:
    """A name that the app doesn't have is published all the same, with a note of what is near it."""
    site.start_broker()

    done = site.run("call", "-A", "proj", "proj.ad", "-a", "[1, 2]")

    assert 0 == done.returncode
    assert "proj has no task 'proj.ad'; near it: proj.add" in done.stderr
    with Client(site.url) as client:
        wait_until(lambda: client.ask("stats")["published"] == 1, what="one message")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("proj.add", "-a", "{}"), "is not a JSON list"),
        (("proj.add", "-a", "[1"), "is not a JSON list"),
        (("proj.add", "-k", "[]"), "is not a JSON object"),
        (("proj.add", "--eta", "tomorrow"), "neither a number of seconds nor a time"),
        (("proj.add", "--eta", "1", "--countdown", "1"), "not both"),
        (("functions:", "-b", "emq://127.0.0.1:1024"), "neither MODULE:FUNCTION nor MODULE:Class.method"),
        ((), "Missing argument"),
        (("proj.add", "-l", "loud"), "none of debug"),
    ],
)
def test_wrong_arguments_are_told(site: Site, argv: tuple[str, ...], told: str) -> None:
    """A wrong option ends with 2 and a message that says what is wrong with it."""
    assert told in site.emq("call", *argv, status=2)


def test_arguments_that_do_not_fit_are_told(site: Site) -> None:
    """Arguments that the task's function doesn't take are refused here, and nothing is published."""
    site.start_broker()

    told = site.emq("call", "-A", "proj", "proj.add", "-a", "[1]", status=1)

    assert "'y'" in told
    with Client(site.url) as client:
        assert 0 == client.ask("stats")["published"]


def test_app_that_fails_to_import_is_one_message(site: Site) -> None:
    """What can't be imported is one line, behind the frames of the project where there are any."""
    assert "there is no module 'nothere'" in site.emq("call", "-A", "nothere", "x.y", status=1)
    (site.folder / "broken.py").write_text("import missing_library\n")
    told = site.run("call", "-A", "broken", "x.y").stderr.splitlines()
    assert "Error: importing broken failed: No module named 'missing_library'" in told[-1]
    assert ["broken.py"] == [Path(line.split('"')[1]).name for line in told if line.startswith("  File ")]
    assert "Traceback" in site.run("call", "-A", "broken", "x.y", "-l", "debug").stderr


def test_eager_and_ignored_results_do_not_mislead(site: Site) -> None:
    """task_always_eager doesn't make the task run here; --wait for an ignored result is refused at once."""
    with (site.folder / "proj.py").open("a") as file:
        file.write("\napp.conf.task_always_eager = True\n\n@app.task(ignore_result=True)\ndef quiet(): ...\n")
    site.start_broker()
    site.emq("call", "-A", "proj", "proj.add", "-a", "[1, 2]")
    assert "ignores its result" in site.emq("call", "-A", "proj", "proj.quiet", "-t", "9", status=1)

    with Client(site.url) as client:
        assert 1 == client.ask("stats")["published"]


def test_stock_router_is_refused_what_it_cannot_do(site: Site) -> None:
    """--wait and times are refused for a stock router before anything is sent."""
    stock = "tcp://127.0.0.1:47291"
    assert "keeps no results" in site.emq("call", "-b", stock, "functions:double", "-t", "1", status=1)
    assert "knows no --countdown" in site.emq(
        "call", "-b", stock, "functions:double", "--countdown", "1", status=1
    )
    assert "only kombu reaches" in site.emq("call", "-b", "amqp://h", "a:b", "-t", "1", status=1)


def test_payload_of_a_plain_call_is_eventmqs_own() -> None:
    """What is published for a path is eventmq's `run`, so that a stock job manager runs it, too."""
    asked = Call(
        name="functions:Greeter.greet",
        args=["x"],
        kwargs={},
        eta=0.0,
        expires=0.0,
        queue=None,
        priority=None,
        task_id="t",
    )

    made = plain_publish(asked, stock=True)

    assert ("default", "") == (made.queue, made.headers.stock())
    expected = {"path": "functions:Greeter", "callable": "greet", "args": ["x"], "kwargs": {}}
    assert expected.items() <= json.loads(made.payload)[1].items()
