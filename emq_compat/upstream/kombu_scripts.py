"""Scripts that run in Redis: each is one step that nothing can come between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, Final

import redis

__all__ = ["ACK", "FETCH", "RENEW", "RESTORE", "UNMOVE", "Script", "call"]


@dataclass(frozen=True, slots=True)
class Script:
    """A script, and the name under which the server knows it."""

    text: str
    sha: str


def _script(text: str) -> Script:
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


#: Takes up to ARGV[1] messages from the lists KEYS[4…], ARGV[2] lists for each priority, one of each in
#: turn; each is noted in the hash KEYS[1], the sorted set KEYS[2] (at the time ARGV[3]) and, with its list,
#: in the hash KEYS[3] (as the list ARGV[4], where that is given). Returns (number of the list, message) of
#: each. What has no tag is returned and noted nowhere.
FETCH: Final = _script(
    """
local wanted, width, found = tonumber(ARGV[1]), tonumber(ARGV[2]), {}
for first = 4, #KEYS, width do
  local more = true
  while more and #found < 2 * wanted do
    more = false
    for i = first, first + width - 1 do
      if #found >= 2 * wanted then break end
      local raw = redis.call('RPOP', KEYS[i])
      if raw then
        more = true
        local read, message = pcall(cjson.decode, raw)
        local told = read and type(message) == 'table' and message['properties']
        local info = type(told) == 'table' and told['delivery_info']
        if type(info) == 'table' and type(told['delivery_tag']) == 'string' then
          local tag = told['delivery_tag']
          redis.call('HSET', KEYS[1], tag, '[' .. raw .. ',' .. cjson.encode(info['exchange'] or '')
            .. ',' .. cjson.encode(info['routing_key'] or '') .. ']')
          redis.call('ZADD', KEYS[2], ARGV[3], tag)
          redis.call('HSET', KEYS[3], tag, ARGV[4] or KEYS[i])
        end
        found[#found + 1] = i - first + 1
        found[#found + 1] = raw
      end
    end
  end
end
return found
"""
)

#: Forgets the messages ARGV that the hash KEYS[3] says this worker holds: hash KEYS[1], sorted set KEYS[2].
#: One that is not in it was given to another worker meanwhile.
ACK: Final = _script(
    """
local count = 0
for _, tag in ipairs(ARGV) do
  if redis.call('HDEL', KEYS[3], tag) == 1 then
    redis.call('ZREM', KEYS[2], tag)
    redis.call('HDEL', KEYS[1], tag)
    count = count + 1
  end
end
return count
"""
)

#: Puts messages back into the lists that the hash KEYS[3] says they are held from: ARGV has (tag, message,
#: LPUSH or RPUSH) of each; what the hash KEYS[1] has no more, others have put back. Returns how many it was.
RESTORE: Final = _script(
    """
local count = 0
for i = 1, #ARGV, 3 do
  local list = redis.call('HGET', KEYS[3], ARGV[i])
  if list then
    redis.call('HDEL', KEYS[3], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
    if redis.call('HDEL', KEYS[1], ARGV[i]) == 1 and ARGV[i + 1] ~= '' then
      redis.call(ARGV[i + 2], list, ARGV[i + 1])
      count = count + 1
    end
  end
end
return count
"""
)

#: Puts the messages of the lists KEYS[2], KEYS[4] … back into the lists KEYS[3], KEYS[5] …, in front, and
#: deletes KEYS[1]. Returns how many.
UNMOVE: Final = _script(
    """
local count = 0
for i = 2, #KEYS, 2 do
  local raw = redis.call('LPOP', KEYS[i])
  while raw do
    redis.call('RPUSH', KEYS[i + 1], raw)
    count = count + 1
    raw = redis.call('LPOP', KEYS[i])
  end
end
redis.call('DEL', KEYS[1])
return count
"""
)

#: Has all of the hash KEYS[2] become visible, by the sorted set KEYS[1], only from ARGV[1] on.
RENEW: Final = _script(
    """
local held = redis.call('HKEYS', KEYS[2])
for _, tag in ipairs(held) do
  redis.call('ZADD', KEYS[1], 'XX', ARGV[1], tag)
end
return #held
"""
)


def call(client: Any, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
    """Run a script; the keys are whole: no prefix is put before them."""
    execute = redis.Redis.execute_command
    try:
        return execute(client, "EVALSHA", script.sha, len(keys), *keys, *arguments)
    except redis.exceptions.NoScriptError:
        return execute(client, "EVAL", script.text, len(keys), *keys, *arguments)
