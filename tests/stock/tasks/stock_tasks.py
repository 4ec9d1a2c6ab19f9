"""Tasks that a stock job manager imports: plain functions and a class, no framework."""

import os
import signal
import time


def add(x, y=3):
    return x + y


def note(path, text):
    """Append a line, in one write, so that lines of several processes don't mix."""
    with open(path, "ab", buffering=0) as file:
        file.write(f"{text}\n".encode())
    return text


def pid():
    return os.getpid()


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def fail(message):
    raise RuntimeError(message)


def die():
    """The process that runs this is killed: no reply can come."""
    os.kill(os.getpid(), signal.SIGKILL)


def note_and_die_once(path, text):
    """Note `text`; the first process that runs this for `path` is killed after that."""
    first = not os.path.exists(path)
    note(path, text)
    if first:
        die()
    return text


class Counter:
    """`stock_tasks:Counter`, made with class_args and class_kwargs."""

    def __init__(self, start=0, step=1):
        self.start = start
        self.step = step

    def up(self, times):
        return self.start + times * self.step
