"""A RabbitMQ node of its own: own name, cookie, epmd and folders; no plugin; loopback only."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psutil

from tests.processes import unused_port, wait_until
from tests.services.launch import NotStarted, launch, wait_answer
from tests.services.state import Owned, Service

NAME = "amqp"
PACKAGE = "rabbitmq-server"
SCRIPT = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # Debian's wrapper in /usr/sbin would change the user


def program() -> str | None:
    """The path of the node's start script, or None when it is not installed."""
    return SCRIPT if os.access(SCRIPT, os.X_OK) else shutil.which("rabbitmq-server")


def start(executable: str, port: int, folder: Path, advanced: str = "") -> Service:
    """Start a node on 127.0.0.1:`port` with its data in `folder`, configured by Erlang terms.

    :raises NotStarted: when it does not answer.
    """
    env = _environment(port, folder, advanced)
    epmd = _start_epmd(env, folder)
    log = folder / "node.log"
    try:
        popen = launch([executable], log, env)
        wait_answer(popen, port, b"AMQP\x00\x00\x09\x01", b"\x01\x00\x00", log, timeout_s=90)
        node = _node_of(popen)
    except BaseException:
        epmd.kill()
        raise
    owned = [Owned.of(node.pid)]
    if node.pid != popen.pid:
        owned.append(Owned.of(popen.pid))  # the script that waits for the node
    owned.append(Owned.of(epmd.pid))
    return Service(
        name=NAME, url=f"amqp://guest:guest@127.0.0.1:{port}//", folder=str(folder), owned=tuple(owned)
    )


def _environment(port: int, folder: Path, advanced: str) -> dict[str, str]:
    for name in ("mnesia", "log", "home"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "enabled_plugins").write_text("[].\n")
    # A test queue needs little; the default limit of 50 MB free disk, and of 40 % memory, stay.
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\nlog.console = true\nlog.file = false\n"
    )
    (folder / "advanced.config").write_text(advanced or "[].")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")}
    return {
        **inherited,
        "HOME": str(folder / "home"),  # where the cookie is made
        "ERL_EPMD_PORT": str(unused_port()),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"emq-test-{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(unused_port()),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "node.pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_CONF_ENV_FILE": os.devnull,  # the system's own settings
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }


def _start_epmd(env: dict[str, str], folder: Path) -> psutil.Popen:
    # Else the node would start one as a daemon that nobody owns and that outlives it.
    epmd = shutil.which("epmd")
    if epmd is None:
        raise NotStarted("no epmd: Erlang is not installed")
    log = folder / "epmd.log"
    port = int(env["ERL_EPMD_PORT"])
    popen = launch([epmd, "-port", str(port), "-address", "127.0.0.1"], log, env)
    names_request = b"\x00\x01n"
    wait_answer(popen, port, names_request, port.to_bytes(4, "big"), log, timeout_s=10)
    return popen


def _node_of(popen: psutil.Popen) -> psutil.Process:
    script = psutil.Process(popen.pid)

    def beam() -> psutil.Process | None:
        for process in [script, *script.children(recursive=True)]:
            if process.name().startswith("beam"):
                return process
        return None

    return wait_until(beam, 10, what="the node's process") or script
