"""Messages that no peer should send: random frames, and mutations of real ones."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from emq_compat.protocol.commands import VERSION

__all__ = ["Fuzz"]

_GOLDEN = Path(__file__).parents[1] / "protocol" / "golden_stock_0_3_13.json"

_JOB = b'["run",{"path":"fuzz","callable":"job","args":[1]}]'
_CAPABILITIES = b'{"slots":2,"held":[["a",1,true]],"tasks":{"t":"l"},"pid":1,"hostname":"h"}'

#: What peers of ours say, beside what stock ones do; the msgid is put in.
_OURS: list[list[bytes]] = [
    [b"HELLO", b"", b'{"client":"fuzz"}'],
    [b"REQUEST", b"", b"fuzz", b"guarantee,id:t1,task:fuzz.job,priority:3", _JOB],
    [b"REQUEST", b"", b"fuzz", b"guarantee,id:t2,eta:4000000000,expires:4000000001", _JOB],
    [b"ASK", b"", b"results", b'{"ids":["a","b"]}'],
    [b"ASK", b"", b"wait", b'{"ids":["a"]}'],
    [b"ASK", b"", b"stats", b"{}"],
    [b"ASK", b"", b"queues", b"{}"],
    [b"ASK", b"", b"inspect", b'{"verb":"ping","timeout_s":0.1}'],
    [b"ASK", b"", b"dead_list", b'{"after":0,"limit":10}'],
    [b"ASK", b"", b"revoke", b'{"ids":["x"],"terminate":false}'],
    [b"ASK", b"", b"forget", b'{"ids":["x"]}'],
    [b"ANSWER", b"", b'{"ok":1}', b"asked"],
    [b"INFORM", b"", b'[[10,"fuzz"]]', b"worker", _CAPABILITIES],
    [b"INFORM", b"", b"", b"scheduler"],
    [b"READY", b"", b"1000"],
    [b"NACK", b"", b'[["a",1]]'],
    [b"UPDATE", b"", b'{"value":1}', b"a", b"attempt:1,state:STARTED"],
    [b"REPLY", b"", b'{"value":1}', b"a", b"attempt:1,state:SUCCESS", b"f", b"fuzz", b"id:t3", _JOB],
    [b"REPLY", b"", b'{"value":1}', b"a"],
    [b"ACK", b"", b'["a","b"]'],
    [b"HEARTBEAT", b"", b"1700000000.5", b'["a"]'],
    [b"SCHEDULE", b"", b"fuzz", b"nohaste", b"60", _JOB, b""],
    [b"SCHEDULE", b"", b"fuzz", b"run_count:2", b"-1", _JOB, b"*/5 * * * *"],
    [b"UNSCHEDULE", b"", b"fuzz", b"", b"60", _JOB, b""],
    [b"PUBLISH", b"", b"topic", b"payload"],
    [b"KBYE", b""],
]

_NASTY = [
    b"", b"\x00", b"\xff\xfe\xfd", b"[" * 3000, b'{"a":' * 2000, b"-1", b"99999999999999999999", b"1e999",
    b"NaN", b"null", b"{}", b"[]", b"[[]]", b'"x"', b"a" * 5000, b"\xed\xa0\x80", b'{"ids":"x"}',
    b'{"ids":[null]}', b'["run"]', b'["run",{}]', b'["stop",{"path":1}]',
    b'["run",{"path":"os","callable":"system","args":["false"]}]', b"guarantee,priority:99", b"timeout:-5",
    b"retry-count:many", b",,,", b"id:%zz", b"eta:inf", b"attempt:1", b"* * * * * * *", b"@reboot", b"\n",
    b"attempt:1,state:", b'{"slots":1e400}', b'{"held":[["a"]]}',
]  # fmt: skip


class Fuzz:
    """Makes messages without end.

    Args:
        seed: of the random numbers.
        without: commands that are meant to end the peer (DISCONNECT), which are never sent whole.
    """

    def __init__(self, seed: int, *, without: tuple[bytes, ...] = (b"DISCONNECT",)) -> None:
        self._random = random.Random(seed)
        golden = json.loads(_GOLDEN.read_text())["messages"]
        real = [[frame.encode() for frame in m["frames"]] for m in golden if m["to"] != "subscriber"]
        real += [[b"", VERSION, *frames] for frames in _OURS]
        self._without = without
        self._real = [frames for frames in real if frames[2] not in without]

    def messages(self, count: int) -> Iterator[list[bytes]]:
        """Yield ``count`` messages, as a DEALER sends them."""
        for _ in range(count):
            frames = self._message()
            if len(frames) > 2 and frames[2] in self._without:
                frames[2] = b"NONSENSE"
            yield frames

    def _message(self) -> list[bytes]:
        chance = self._random.random()
        if chance < 0.1:
            return [self._bytes() for _ in range(self._random.randint(1, 20))]
        frames = list(self._random.choice(self._real))
        if len(frames) > 3 and chance < 0.9:
            frames[3] = b"%032x" % self._random.getrandbits(128)
        if chance > 0.25:
            for _ in range(self._random.randint(1, 3)):
                self._mutate(frames)
        return frames

    def _mutate(self, frames: list[bytes]) -> None:
        rng = self._random
        if not frames:
            frames.append(self._bytes())
            return
        # The delimiter and the version stay mostly: what is behind them is where readers differ.
        first = 0 if rng.random() < 0.1 else min(2, len(frames) - 1)
        index = rng.randrange(first, len(frames))
        how = rng.randrange(7)
        if how == 0:
            del frames[index]
        elif how == 1:
            frames.insert(index, frames[index])
        elif how == 2:
            frames[index] = self._bytes()
        elif how == 3:
            frames[index] = rng.choice(_NASTY)
        elif how == 4 and frames[index]:
            raw = bytearray(frames[index])
            raw[rng.randrange(len(raw))] = rng.randrange(256)
            frames[index] = bytes(raw)
        elif how == 5:
            other = rng.randrange(len(frames))
            frames[index], frames[other] = frames[other], frames[index]
        else:
            frames[index] = frames[index][: rng.randint(0, len(frames[index]))]

    def _bytes(self) -> bytes:
        size = self._random.choice((0, 1, 4, 16, 60, 300)) if self._random.random() < 0.999 else 200_000
        return self._random.randbytes(size)
