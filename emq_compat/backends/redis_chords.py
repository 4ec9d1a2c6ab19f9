"""Chords counted in Redis in Celery's own keys: parts may be run by its workers and ours, in any mixture.

Behind the key of the header's group, ``celery-taskset-meta-ID``:

    .s   how many parts there are; without it the chord isn't complete
    .t   what was added to that
    .j   the parts' ends, JSON ``[1, id, state, result]``: sorted by their places, or a list of them
    .d   whose ends are there: a part that ends once more doesn't count
    .c   who publishes the body, for some seconds; afterwards ``done``

and at the key itself the header's results, where one of them is a group's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from emq_compat.backends.base import Tree
from emq_compat.backends.chords import ChordCounter, Claim, PartResult
from emq_compat.backends.keyvalue import RecordCodec
from emq_compat.ids import new_id

__all__ = ["RedisChords"]

#: KEYS: j t s d c and the group's; ARGV: task id, end, "1" where sorted, place, seconds of the chord's keys,
#: of the group's, of a claim, and the claim's token. Returns 1 where the claim was given, and -MS where
#: all have ended and another has it for so many milliseconds.
_ENDED: Final = """
if redis.call('GET', KEYS[5]) == 'done' then return 0 end
local member = ARGV[1] .. ':' .. ARGV[4]
if redis.call('SADD', KEYS[4], member) == 1 then
  if ARGV[3] == '1' then redis.call('ZADD', KEYS[1], ARGV[4], ARGV[2])
  else redis.call('RPUSH', KEYS[1], ARGV[2]) end
end
local keep = tonumber(ARGV[5])
if keep > 0 then
  for i = 1, 4 do redis.call('EXPIRE', KEYS[i], keep) end
  if tonumber(ARGV[6]) > 0 then redis.call('EXPIRE', KEYS[6], ARGV[6]) end
end
local size = redis.call('GET', KEYS[3])
if not size then return 0 end
local count
if ARGV[3] == '1' then count = redis.call('ZCARD', KEYS[1]) else count = redis.call('LLEN', KEYS[1]) end
if count ~= tonumber(size) + tonumber(redis.call('GET', KEYS[2]) or 0) then return 0 end
if redis.call('SET', KEYS[5], ARGV[8], 'NX', 'EX', ARGV[7]) then return 1 end
if redis.call('GET', KEYS[5]) == ARGV[8] then return 1 end
return -math.max(1, redis.call('PTTL', KEYS[5]))
"""
#: KEYS: c s; ARGV: token, seconds.
_EXTEND: Final = """
local owner = redis.call('GET', KEYS[1])
if owner == ARGV[1] then return redis.call('EXPIRE', KEYS[1], ARGV[2]) end
if owner or redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""
#: KEYS: c j t s d; ARGV: token, seconds that it is remembered.
_FINISH: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
redis.call('SET', KEYS[1], 'done', 'EX', ARGV[2])
return 1
"""
#: A part that comes again within so many seconds after its chord's end doesn't begin it anew.
_REMEMBERED_S: Final = 300
#: How often it is asked whether another's claim has ended.
_LOOK_S: Final = 0.2


class RedisChords(ChordCounter):
    """Implements ChordCounter.

    Args:
        client: of the library redis.
        tried: does something, and again while Redis can't be reached; raises OperationalError.
        group_key: chord id → key.
        claim_s: how long a claim holds before ``extend``.
        expires_s: how long a chord is kept (result_chord_expires); 0: without end.
        group_expires_s: how long its header's results are.
        ordered: ends are sorted (result_chord_ordered of result_backend_transport_options).
    """

    def __init__(
        self,
        client: Any,
        codec: RecordCodec,
        *,
        tried: Callable[[Callable[[], Any]], Any],
        group_key: Callable[[str], str],
        claim_s: float = 10.0,
        expires_s: float = 0,
        group_expires_s: float = 0,
        ordered: bool = True,
    ) -> None:
        self._client = client
        self._codec = codec
        self._tried = tried
        self._group_key = group_key
        self._claim_s = max(5, int(claim_s))
        self._expires_s = int(expires_s)
        self._group_expires_s = int(group_expires_s)
        self._ordered = ordered
        self._ended = client.register_script(_ENDED)
        self._extend = client.register_script(_EXTEND)
        self._finish = client.register_script(_FINISH)

    def _keys(self, chord: str, kinds: str) -> list[str]:
        return [f"{self._group_key(chord)}.{kind}" for kind in kinds]

    def begin(self, chord: str, size: int, tree: Tree | None) -> None:
        (size_key, claim_key), keep = self._keys(chord, "sc"), self._expires_s or None
        encoded = None if tree is None else self._codec.encode({"result": tree})

        def do() -> None:
            with self._client.pipeline() as pipe:
                if encoded is not None:
                    pipe.set(self._group_key(chord), encoded, ex=keep)
                pipe.delete(claim_key)
                pipe.set(size_key, size, ex=keep)
                pipe.execute()

        self._tried(do)

    def grow(self, chord: str) -> None:
        [key] = self._keys(chord, "t")
        self._tried(lambda: self._client.incr(key, 1))

    def ended(self, chord: str, part: PartResult, index: int | None) -> Claim | None:
        token = new_id()
        keys = [*self._keys(chord, "jtsdc"), self._group_key(chord)]
        place = "+inf" if index is None else index
        end = self._codec.encode([1, part.task_id, part.state, part.result])
        keep = self._expires_s, self._group_expires_s
        given = [part.task_id, end, int(self._ordered), place, *keep, self._claim_s, token]
        while (answer := self._tried(lambda: self._ended(keys=keys, args=given))) < 0:
            # It was counted before, and comes again: who has the claim publishes the body, or is dead.
            time.sleep(min(-answer / 1000, _LOOK_S))
        return Claim(chord=chord, token=token) if answer else None

    def results(self, claim: Claim) -> Sequence[PartResult]:
        [key] = self._keys(claim.chord, "j")
        ask = self._client.zrange if self._ordered else self._client.lrange
        ends: Any = [self._codec.decode(end) for end in self._tried(lambda: ask(key, 0, -1))]
        return [
            PartResult(task_id=str(task_id), state=str(state), result=result)
            for _, task_id, state, result in ends
        ]

    def extend(self, claim: Claim, seconds: float) -> bool:
        keys = self._keys(claim.chord, "cs")
        return bool(self._tried(lambda: self._extend(keys=keys, args=[claim.token, int(seconds)])))

    def finish(self, claim: Claim) -> None:
        keys = self._keys(claim.chord, "cjtsd")
        self._tried(lambda: self._finish(keys=keys, args=[claim.token, _REMEMBERED_S]))

    def abandon(self, chord: str) -> None:
        keys = self._keys(chord, "s")
        self._tried(lambda: self._client.delete(*keys))
