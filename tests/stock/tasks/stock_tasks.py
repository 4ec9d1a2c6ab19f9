"""Tasks that a stock job manager imports: plain functions and a class, no framework."""

import os
import signal
import sys
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


def note_and_sleep(path, text, seconds):
    """Note `text` at the start and `text ended` after so many seconds."""
    note(path, text)
    time.sleep(seconds)
    note(path, text + " ended")
    return text


def note_and_hang_once(path, text, seconds):
    """Note `text`; whoever notes it first is then busy for so long."""
    with open(path, "a+") as file:
        file.seek(0)
        first = text not in file.read().split("\n")
    note(path, text)
    if first:
        time.sleep(seconds)
    return text


def fail_twice(path):
    """Raise until the third run."""
    note(path, "run")
    with open(path) as file:
        runs = len(file.readlines())
    if runs < 3:
        raise RuntimeError(f"run {runs}")
    return runs


def note_runner(path, seconds):
    """Note which job manager runs this: a stock one, or ours."""
    time.sleep(seconds)
    return note(path, "stock" if "eventmq.worker" in sys.modules else "ours")


def note_time(path, text):
    """Note `text` and when it ran, in unix seconds."""
    return note(path, f"{text} {time.time():.3f}")
