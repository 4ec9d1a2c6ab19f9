"""`python -m tests.services start|stop|env`: the real servers that some tests need."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.processes import unused_port
from tests.services import chromium, rabbitmq, redis
from tests.services.launch import NotStarted, end
from tests.services.packages import can_install, install
from tests.services.state import read_state, write_state

SERVERS = {server.NAME: server for server in (redis, rabbitmq)}
VARIABLES = {redis.NAME: "EMQ_TEST_REDIS", rabbitmq.NAME: "EMQ_TEST_AMQP"}
STOP_TIMEOUT_S = 30


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.services", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    starting = commands.add_parser(
        "start", help="install what is missing (root only) and start what does not run"
    )
    starting.add_argument(
        "names",
        nargs="*",
        choices=[[], *SERVERS, chromium.NAME],
        metavar="NAME",
        help="redis, amqp, chromium (only installed); default: all",
    )
    starting.add_argument("--port", type=int, help="a fixed port, for one NAME; default: a free one")
    commands.add_parser("stop", help="end what `start` has started, by pid")
    commands.add_parser("env", help="print the variables that the tests read, for `eval`")
    asked = parser.parse_args()
    if asked.command == "start":
        return _start(asked.names or [*SERVERS, chromium.NAME], asked.port)
    return _stop() if asked.command == "stop" else _env()


def _start(names: list[str], port: int | None) -> int:
    running = {name: service for name, service in read_state().items() if service.alive()}
    wanted = [name for name in names if name not in running]
    _install_missing(wanted)
    failed = False
    if chromium.NAME in wanted:
        wanted.remove(chromium.NAME)
        if chromium.program() is None:
            packages = " ".join(chromium.PACKAGES)
            print(f"{chromium.NAME}: not installed (Debian packages {packages})", file=sys.stderr)
            failed = True
    for name in wanted:
        executable = SERVERS[name].program()
        if executable is None:
            print(f"{name}: not installed (Debian package {SERVERS[name].PACKAGE})", file=sys.stderr)
            failed = True
            continue
        folder = Path(tempfile.mkdtemp(prefix=f"emq-{name}-"))
        try:
            running[name] = SERVERS[name].start(executable, port or unused_port(), folder)
        except NotStarted as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
            continue
        write_state(running)  # at once: whatever happens next, `stop` finds it
    for name, service in running.items():
        print(f"{name}: {service.url} (pid {service.owned[0].pid})")
    return 1 if failed else 0


def _install_missing(names: list[str]) -> None:
    servers = [SERVERS[name] for name in names if name in SERVERS]
    missing = [server.PACKAGE for server in servers if server.program() is None]
    if chromium.NAME in names and chromium.program() is None:
        missing += chromium.PACKAGES
    if not missing or not can_install():
        return
    print(f"installing {' '.join(missing)} …", flush=True)
    try:
        install(missing)
    except subprocess.SubprocessError as error:
        print(error, file=sys.stderr)


def _stop() -> int:
    services = read_state()
    for name, service in list(services.items()):
        end(service, STOP_TIMEOUT_S)
        print(f"{name}: stopped")
        del services[name]
        write_state(services)
    return 0


def _env() -> int:
    for name, service in read_state().items():
        if service.alive():
            print(f"export {VARIABLES[name]}={service.url}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
