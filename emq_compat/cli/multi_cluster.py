"""Starts and ends the nodes of ``emq-compat multi``: by the pids in their files, and by nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from emq_compat.cli.multi_nodes import Node
from emq_compat.cli.pid_file import read_pid
from emq_compat.errors import ConfigurationError
from emq_compat.shim.surface.processes import is_alive

__all__ = ["Cluster"]

#: How often it is looked whether nodes that were told to end have done so.
_LOOK_S = 0.1


class Cluster:
    """Several workers of this machine.

    Args:
        nodes: the workers.
        say: prints a line, or a part of one (``newline=False``).
        verbose: print the commands, too.
    """

    def __init__(self, nodes: Sequence[Node], say: Callable[..., None], *, verbose: bool = False) -> None:
        self.nodes = nodes
        self._say = say
        self._verbose = verbose

    def start(self) -> bool:
        """Start all, one after the other; returns whether each has begun to work."""
        self._say("> Starting nodes...")
        started = [self._start(node, f"\t> {node.name}: ") for node in self.nodes]
        return all(started)

    def stop(self, signum: int, *, wait: bool) -> None:
        """Send all a signal; ``wait``: until they have ended."""
        for node in self._stopped(signum, wait=wait):
            if wait:
                self._say(f"\t> {node.name}: OK")
            else:
                self._say(f"> {node.name}: DOWN")

    def restart(self, signum: int) -> bool:
        """End all, and start them again; returns whether each has begun to work."""
        ended = self._stopped(signum, wait=True)
        started = [self._start(node, f"> Restarting node {node.name}: ") for node in ended]
        return all(started)

    def kill(self) -> None:
        """Kill all, without any regard for what they do."""
        for node in self.nodes:
            pid = self._pid(node)
            if pid is None or not _send(pid, signal.SIGKILL):
                self._say(f"> {node.name}: DOWN")
            else:
                self._say(f"Sending KILL to node {node.name} ({pid})")

    def _start(self, node: Node, told: str) -> bool:
        for file, option in ((node.pidfile, "--pidfile"), (node.logfile, "--logfile")):
            try:
                Path(file).absolute().parent.mkdir(parents=True, exist_ok=True)
            except OSError as exc:
                raise ConfigurationError(
                    f"the folder of {file} can't be made: {exc.strerror or exc}; {option} names another one"
                ) from exc
        if self._verbose:
            self._say(f"  {' '.join(node.argv)}")
        # With --detach it returns once the start has succeeded or failed; why is printed here.
        self._say(told, newline=False)
        try:
            done = subprocess.run(  # noqa: S603 - the command that the user has written
                node.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        except OSError as exc:
            raise ConfigurationError(f"{node.argv[0]} can't be run: {exc.strerror or exc}") from exc
        self._say("OK" if done.returncode == 0 else "FAILED")
        if done.returncode:
            self._say(done.stdout.decode("utf-8", "replace").rstrip())
            how = "was terminated by signal" if done.returncode < 0 else "terminated with exit code"
            self._say(f"* Child {how} {abs(done.returncode)}")
        return done.returncode == 0

    def _stopped(self, signum: int, *, wait: bool) -> list[Node]:
        """Send the signal; returns the nodes that are down: those that were, and those that ended."""
        down: list[Node] = []
        living: dict[int, Node] = {}
        pids = [(node, self._pid(node)) for node in self.nodes]
        if any(pid is not None for _, pid in pids):
            self._say("> Stopping nodes...")
        name = signal.Signals(signum).name.removeprefix("SIG")
        for node, pid in pids:
            if pid is None:
                down.append(node)
                continue
            self._say(f"\t> {node.name}: {name} -> {pid}")
            if _send(pid, signum):
                living[pid] = node
            else:
                self._say(f"Could not signal {node.name} ({pid}): No such process")
                down.append(node)
        if wait:
            down += self._waited(living)
        return [node for node in self.nodes if node in down]

    def _waited(self, living: dict[int, Node]) -> list[Node]:
        ended: list[Node] = []
        if living:
            shown = ", ".join(map(str, living))
            self._say(f"> Waiting for {len(living)} node{'s' if len(living) > 1 else ''} -> {shown}...")
        while living:
            for pid in [pid for pid in living if not is_alive(pid)]:
                ended.append(living.pop(pid))
            if living:
                time.sleep(_LOOK_S)
        return ended

    def _pid(self, node: Node) -> int | None:
        """Return the pid in its file; None: there is none, or the number is another program's by now."""
        pid = read_pid(Path(node.pidfile))
        if pid is None or not is_alive(pid):
            return None
        if node.own_command and not _is_worker(pid):
            self._say(f"{node.pidfile} names process {pid}, which is no worker: it is left alone")
            return None
        return pid


def _send(pid: int, signum: int) -> bool:
    try:
        os.kill(pid, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _is_worker(pid: int) -> bool:
    try:
        words = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    return "worker" in words and any("emq_compat" in word or "emq-compat" in word for word in words)
