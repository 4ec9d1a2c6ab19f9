"""What a worker is asked to run, and to read: by real messages to a real worker, which goes on after each."""

from __future__ import annotations

import base64
import importlib
import json
import os
import pickle
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from emq_compat.decompression import MOST_BYTES
from emq_compat.message import Headers, Job, Publish, new_id
from tests.broker_process import Broker
from tests.processes import Proc, Procs, unused_port

pytestmark = pytest.mark.integration

PROJECT = """
import os
import subprocess
from emq_compat.celery_shim import Celery

app = Celery("proj")
secret = {}

def helper():
    return "not a task"

@app.task
def size(value):
    return len(value)
"""


class Running:
    """A worker of the shim, a job manager with --allow, and who sends to them."""

    def __init__(self, broker: Broker, worker: Proc) -> None:
        self.url = broker.url
        self.client = broker.client
        self.worker = worker

    def run(self, queue: str = "celery", **options: Any) -> tuple[str, dict[str, Any]]:
        """Send a job and return what it came to: state and reply."""
        task_id = new_id()
        celery = {"task": "proj.size", "id": task_id, **options.pop("celery", {})}
        job = Job(**{"path": "proj", "callable": "size", **options}, celery=celery)
        return self.send(job.encode(), task_id, queue)

    def send(self, payload: bytes, task_id: str, queue: str = "celery") -> tuple[str, dict[str, Any]]:
        headers = Headers(task_id=task_id, guarantee=True)
        self.client.publish(Publish(queue=queue, headers=headers, payload=payload))
        [(_, result)] = self.client.wait([task_id], 30)
        return result.state, result.reply

    def refused(self, *words: str, **job: Any) -> None:
        """The job fails, with these words in its error; the next one is run."""
        state, reply = self.run(**job)
        assert "FAILURE" == state
        error = f"{reply['error']['type']}: {reply['error']['message']}"
        for word in words:
            assert word in error
        assert ("SUCCESS", 3) == self.plain(job.get("queue", "celery"))

    def plain(self, queue: str) -> tuple[str, Any]:
        options = {"path": "json", "callable": "dumps", "celery": {}} if queue == "plain" else {}
        state, reply = self.run(queue, args=["abc"] if queue == "celery" else [222], **options)
        return state, len(reply["value"]) if queue == "plain" else reply["value"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    tmp_path = tmp_path_factory.mktemp("bodies")
    (tmp_path / "proj.py").write_text(PROJECT)
    procs = Procs(tmp_path)
    broker = Broker(procs, unused_port, tmp_path / "data")
    try:
        broker.start("--memory")
        worker = procs.emq("worker", "-A", "proj", "-b", broker.url, "-c", "1",
                           cwd=tmp_path, ready="ready")  # fmt: skip
        manager = procs.emq("jobmanager", "--allow", "json.*", "-b", broker.url, "-Q", "plain", "-c", "1",
                  cwd=tmp_path, ready="connected to")  # fmt: skip
        yield Running(broker, worker)
        assert worker.alive()
        worker.stop()
        manager.stop()
    finally:
        broker.client.close()
        procs.close()


def packed(body: bytes, content_type: str = "application/json", **more: str) -> dict[str, Any]:
    """The member of a job that holds its arguments packed."""
    text = base64.b64encode(body).decode()
    return {"packed": {"content_type": content_type, "content_encoding": "utf-8", "body": text, **more}}


def squeezed(compression: str) -> bytes:
    """Some kilobytes that stand for more than a body may have."""
    part, more = b"a" * (1 << 20), (MOST_BYTES >> 20) + 1
    if compression == "application/x-gzip":
        made = zlib.compressobj()
        return b"".join((*(made.compress(part) for _ in range(more)), made.flush()))
    if compression == "application/x-brotli":
        return bytes(pytest.importorskip("brotli").compress(part * more, quality=1))
    modules = {"x-bz2": "bz2", "x-lzma": "lzma", "zstd": "backports.zstd"}
    library = pytest.importorskip(modules[compression.removeprefix("application/")])
    return bytes(library.compress(part) * more)


COMPRESSIONS = (
    "application/x-gzip",
    "application/x-bz2",
    "application/x-lzma",
    "application/zstd",
    "application/x-brotli",
)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_bomb_is_not_unpacked(running: Running, compression: str) -> None:
    """A small body that stands for a huge one fails by the limit, and the worker stays small."""
    bomb = squeezed(compression)
    assert len(bomb) < MOST_BYTES // 100

    running.refused(f"longer than {MOST_BYTES} bytes", celery=packed(bomb, compression=compression))

    parent = psutil.Process(running.worker.pid)
    peak = sum(process.memory_info().rss for process in (parent, *parent.children(recursive=True)))
    assert peak < 6 * MOST_BYTES


@pytest.mark.parametrize("compression", COMPRESSIONS[:3])
def test_a_compressed_body_that_ends_too_soon(running: Running, compression: str) -> None:
    """A compressed body that was cut short fails, and says that it ends too soon."""
    library = {"application/x-gzip": "zlib", "application/x-bz2": "bz2", "application/x-lzma": "lzma"}
    module = importlib.import_module(library[compression])
    whole = module.compress(b'[["abc"],{}]')

    assert "SUCCESS" == running.run(celery=packed(whole, compression=compression))[0]
    running.refused("can't be read", celery=packed(whole[:-8], compression=compression))


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-python-serialize",
        "application/x-yaml",
        "application/x-msgpack",
        "text/plain",
        "a/b",
        "",
    ],
)
def test_content_that_is_not_accepted_is_not_read(
    running: Running, tmp_path: Path, content_type: str
) -> None:
    """A content type beyond accept_content is refused by its name; no pickle of it is loaded."""
    body = pickle.dumps([[Trap(tmp_path / "trap")], {}])

    running.refused("ContentDisallowed", celery=packed(body, content_type, content_encoding="binary"))

    assert not (tmp_path / "trap").exists()


def test_a_packed_value_in_a_job_is_no_way_in(running: Running, tmp_path: Path) -> None:
    """kombu's envelope around a pickle is refused as an argument, too, and in a result that is asked for."""
    from emq_compat.celery_shim import Celery

    body = base64.b64encode(pickle.dumps(Trap(tmp_path / "trap"))).decode()
    value = {"content_type": "application/x-python-serialize", "content_encoding": "binary", "body": body}
    envelope = {"__type__": "serialized", "__value__": value}

    running.run(args=[envelope])
    forged = Headers(task_id=new_id(), guarantee=True, settled="SUCCESS")
    reply = b'{"state":"SUCCESS","value":' + json.dumps(envelope).encode() + b"}"
    running.client.publish(Publish(queue="celery", headers=forged, payload=reply))
    app = Celery("reader", broker=running.url, backend=running.url)
    with pytest.raises(Exception, match="application/x-python-serialize"):
        app.AsyncResult(forged.task_id).get(timeout=10)

    assert not (tmp_path / "trap").exists()
    app.close()


@pytest.mark.parametrize("depth", [500, 990, 100_000])
def test_depth_ends_nobody(running: Running, depth: int) -> None:
    """Arguments nested however deep are run or refused."""
    nested = "[" * depth + "]" * depth
    task_id = new_id()
    options = f'"args":[{nested}],"celery":{{"task":"proj.size","id":"{task_id}"}}'
    payload = f'["run",{{"path":"proj","callable":"size",{options}}}]'

    state, _ = running.send(payload.encode(), task_id)

    assert state in ("SUCCESS", "FAILURE")
    assert ("SUCCESS", 3) == running.plain("celery")


STRANGERS = [
    ("proj", "helper"), ("proj", "nothing"), ("os", "system"), ("proj", "os.system"), ("proj.os", "system"),
    ("proj", "__import__"), ("proj", "__class__"), ("proj:size", "__call__"), ("proj:secret", "clear"),
    ("proj.size.__func__", "__globals__"), ("../../etc/passwd", "x"), ("..proj", "size"),
    ("/etc/passwd", "x"), ("proj/../os", "system"), ("builtins", "eval"), ("subprocess", "Popen"),
    ("proj\x00", "size"),
    ("proj\n", "size"), ("importlib", "import_module"), ("emq_compat.paths", "callable_from_name"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "callable_"), STRANGERS)
def test_what_nobody_registered_does_not_run(
    running: Running, tmp_path: Path, path: str, callable_: str
) -> None:
    """Neither by its name nor by its path does anything run but a registered task."""
    command = f"mkdir {tmp_path / 'ran'}"
    names = {"task": f"{path}.{callable_}"}

    running.refused("NotRegistered", path=path, callable=callable_, args=[command], celery=names)

    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("path", "callable_"),
    [
        *STRANGERS, ("json", "codecs.open"), ("json", "__loader__"), ("json:JSONEncoder", "__init__"),
        ("json.decoder", "scanner.c_make_scanner"), ("json:codecs", "open"), ("json.codecs", "open"),
        ("json.tool", "argparse.FileType"), ("json.tool", "Path"),
    ],
)  # fmt: skip
def test_what_nobody_allowed_does_not_run(
    running: Running, tmp_path: Path, path: str, callable_: str
) -> None:
    """A job manager runs what --allow names, and nothing that an allowed module has only imported."""
    command = f"mkdir {tmp_path / 'ran'}"

    state, reply = running.run("plain", path=path, callable=callable_, args=[command], celery={})

    assert "FAILURE" == state
    assert reply["error"]["type"] in ("NotAllowed", "NotResolved", "ModuleNotFoundError")
    assert not (tmp_path / "ran").exists()
    assert ("SUCCESS", 3) == running.plain("plain")
