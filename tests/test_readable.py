"""Waiting for one descriptor."""

from __future__ import annotations

import fcntl
import os
import resource
import threading
from collections.abc import Iterator

import pytest

from emq_compat.readable import readable

#: `select.select` takes no number from here on.
HIGH = 1024


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose end for reading has a high number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * HIGH)), hard))
    low, write = os.pipe()
    read = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, HIGH)
    os.close(low)
    yield read, write
    os.close(read)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_descriptor_of_any_number_is_waited_for(pipe: tuple[int, int]) -> None:
    """There is nothing to read, then something comes while it is waited for, and then the end."""
    read, write = pipe
    assert not readable(read)
    assert not readable(read, 0.001)
    writing = threading.Timer(0.05, os.write, (write, b"x"))
    writing.start()
    assert readable(read, 10)
    writing.join()
    os.read(read, 1)
    assert not readable(read)
    os.close(write)
    assert readable(read)


def test_without_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a process's libraries have taken `poll` away, as eventlet does, there is `select` still."""
    monkeypatch.delattr("select.poll")
    read, write = os.pipe()
    assert not readable(read, 0.001)
    os.write(write, b"x")
    assert readable(read)
    os.close(read)
    os.close(write)
