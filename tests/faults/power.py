"""A disk without power: what strace has seen a process write, as it may stand on the disk after a cut.

What was fsync'd is there. Of what was written since, any sectors are, in any order; so are new names and
removed ones whose folder wasn't fsync'd. What the process printed is what it has confirmed.
"""

from __future__ import annotations

import codecs
import random
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

SECTOR = 512

_CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")
_PWRITE = re.compile(r'^\d+<([^>]*)>, "(.*)", \d+, (\d+)$', re.DOTALL)
_PWRITEV = re.compile(r"^\d+<([^>]*)>, \[(.*)\], \d+, (\d+), 0$", re.DOTALL)
_PIECE = re.compile(r'iov_base="([^"]*)", iov_len')
_WRITE = re.compile(r'^(\d+)<([^>]*)>, "(.*)"(?:\.\.\.)?, \d+$', re.DOTALL)
_OF_FD = re.compile(r"^\d+<([^>]*)>(?:, (\d+))?$")
_OPEN = re.compile(r'^[^,]*, "([^"]*)", ([A-Z_|]+)')
_UNLINK = re.compile(r'^"([^"]*)"$')


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that was done.

    ``what``: write, append, truncate, sync, create, unlink, dsync (each write is on disk at once), say.
    """

    what: str
    path: str = ""
    at: int = 0
    content: bytes = b""


def steps_of(log: str, folder: Path) -> list[Step]:
    """Read what strace has written: what was done in a folder, and what was said on standard output."""
    steps = []
    for line in log.splitlines():
        if (call := _CALL.match(line)) is None or int(call[3]) < 0:
            continue
        name, arguments = call[1], call[2]
        if name == "pwrite64" and (found := _PWRITE.match(arguments)):
            step = Step(
                what="write", path=found[1], at=int(found[3]), content=_bytes(found[2])[: int(call[3])]
            )
        elif name == "pwritev2" and (found := _PWRITEV.match(arguments)):
            content = b"".join(_bytes(piece) for piece in _PIECE.findall(found[2]))
            step = Step(what="write", path=found[1], at=int(found[3]), content=content[: int(call[3])])
        elif name == "write" and (found := _WRITE.match(arguments)):
            content = _bytes(found[3])
            if found[1] != "1":
                # A long one isn't shown as a whole: it is the redo log's zeros.
                step = Step(what="append", path=found[2], content=content.ljust(int(call[3]), b"\0"))
            elif content.strip().isdigit():
                step = Step(what="say", content=content)
            else:
                continue  # Programs that it starts may write there, too.
        elif name in ("fsync", "fdatasync") and (found := _OF_FD.match(arguments)):
            step = Step(what="sync", path=found[1])
        elif name == "ftruncate" and (found := _OF_FD.match(arguments)):
            step = Step(what="truncate", path=found[1], at=int(found[2]))
        elif name == "openat" and (found := _OPEN.match(arguments)) and "O_DSYNC" in found[2]:
            step = Step(what="dsync", path=found[1])
        elif name == "openat" and (found := _OPEN.match(arguments)) and "O_CREAT" in found[2]:
            step = Step(what="create", path=found[1])
        elif name == "unlink" and (found := _UNLINK.match(arguments)):
            step = Step(what="unlink", path=found[1])
        else:
            continue
        if step.what == "say" or step.path == str(folder) or step.path.startswith(f"{folder}/"):
            steps.append(step)
    return steps


def _bytes(text: str) -> bytes:
    decoded, _ = codecs.escape_decode(text.encode("latin-1"))
    assert isinstance(decoded, bytes)
    return decoded


@dataclass(slots=True)
class _File:
    synced: bytearray = field(default_factory=bytearray)
    #: since the last sync.
    later: list[Step] = field(default_factory=list)
    dsync: bool = False

    def apply(self, step: Step, chance: random.Random | None = None) -> None:
        """Do a step to what is on the disk; with a ``chance``, only to some of its sectors."""
        if step.what == "truncate":
            if chance is None or chance.random() < 0.5:
                del self.synced[step.at :]
                self.synced.extend(bytes(step.at - len(self.synced)))
            return
        for start in range(0, len(step.content), SECTOR):
            if chance is None or chance.random() < 0.5:
                at, part = step.at + start, step.content[start : start + SECTOR]
                self.synced.extend(bytes(max(0, at + len(part) - len(self.synced))))
                self.synced[at : at + len(part)] = part

    def do(self, step: Step) -> None:
        """Do a step."""
        if step.what == "append":
            step = replace(step, what="write", at=self.size())
        if step.what == "dsync":
            self.dsync = True
        elif step.what == "sync":
            for later in self.later:
                self.apply(later)
            self.later.clear()
        elif self.dsync:
            self.apply(step)
        else:
            self.later.append(step)

    def size(self) -> int:
        """How long the file is for a process that goes on."""
        size = len(self.synced)
        for step in self.later:
            size = step.at if step.what == "truncate" else max(size, step.at + len(step.content))
        return size


def cut(steps: list[Step], at: int, folder: Path, to: Path, chance: random.Random) -> list[int]:
    """Write what a disk may hold after ``steps[:at]`` into a new folder; returns what was said."""
    files: dict[str, _File] = {}
    #: names whose removal, and those whose making, is not on disk for certain.
    removed: dict[str, _File] = {}
    made: set[str] = set()
    said: list[int] = []
    for step in steps[:at]:
        if step.what == "say":
            said.append(int(step.content))
        elif step.path == str(folder):
            removed.clear()
            made.clear()
        elif step.what == "create":
            if step.path not in files:
                files[step.path] = _File()
                made.add(step.path)
        elif step.what == "unlink":
            removed[step.path] = files.pop(step.path)
            made.discard(step.path)
        elif (file := files.get(step.path)) is not None:
            file.do(step)
    if at < len(steps) and steps[at].what == "write" and (file := files.get(steps[at].path)) is not None:
        file.later.append(steps[at])
    to.mkdir(mode=0o700)
    for path, file in [*removed.items(), *files.items()]:
        if (path in removed or path in made) and path not in files and chance.random() < 0.5:
            continue
        if path in made and not file.synced and chance.random() < 0.5:
            continue
        keep = chance.choice((0, 1, 2))
        for later in file.later:
            if keep:
                file.apply(later, chance if keep == 1 else None)
        (to / Path(path).name).write_bytes(file.synced)
    return said
