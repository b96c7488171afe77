"""The Lua scripts of the Redis engine: each changes rows of one bucket, a row at a time, and returns one digit per row.

KEYS[1] is the bucket's marks (a hash), KEYS[i + 1] the record of row i; ARGV[1] is the flag, then come the row's arguments. Order
keys are compared byte by byte, because Lua's ``<`` on strings follows the server's locale.
"""

from __future__ import annotations

import hashlib
from typing import Final

_LOOP: Final = """
local out, marks, flag, width = {}, KEYS[1], ARGV[1], %d
for i = 1, #KEYS - 1 do
  local key, at, code = KEYS[i + 1], 2 + (i - 1) * width, 0
  %s
  out[i] = code
end
return table.concat(out)
"""
_PUT: Final = """
  local name, record = ARGV[at], ARGV[at + 1]
  local new, old = string.sub(record, 1, 40), redis.call('GETRANGE', key, 0, 39)
  if old == new then code = 1
  elseif old ~= '' then
    for b = 1, 40 do
      local x, y = string.byte(new, b), string.byte(old, b) or -1
      if x ~= y then
        if x < y then code = 2 end
        break
      end
    end
  end
  if code == 0 then redis.call('SET', key, record) end
  if code < 2 and flag == '1' then redis.call('HSET', marks, name, new) end
"""
_SWAP: Final = """
  local seen, record = ARGV[at], ARGV[at + 1]
  if redis.call('GETRANGE', key, 0, 39) == seen then
    redis.call('SET', key, record)
    code = 1
  end
"""
_REMOVE: Final = """
  local name = ARGV[at]
  code = redis.call('DEL', key)
  if flag == '' then redis.call('HDEL', marks, name)
  elseif code == 1 then redis.call('HSET', marks, name, flag) end
"""
_MARK: Final = """
  local name, head = ARGV[at], redis.call('GETRANGE', key, 0, 39)
  if head ~= '' then
    redis.call('HSET', marks, name, head)
    code = 1
  end
"""
_UNMARK: Final = """
  local name, token = ARGV[at], ARGV[at + 1]
  if redis.call('HGET', marks, name) == token then code = redis.call('HDEL', marks, name) end
"""


class Script:
    """A script of `width` arguments per row, and the name the server knows it by."""

    def __init__(self, width: int, body: str) -> None:
        self.text = _LOOP % (width, body)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


#: (key, record) -> `moontide.order.Outcome`; flag "1" marks.
PUT: Final = Script(2, _PUT)
#: (head last seen, record) -> 1 where it was still so and the record is written.
SWAP: Final = Script(2, _SWAP)
#: (key) -> 1 where there was a record; a flag becomes the mark of those, without one their mark goes too.
REMOVE: Final = Script(1, _REMOVE)
#: (key) -> 1 where there is a record, now marked with its order key.
MARK: Final = Script(1, _MARK)
#: (key, value) -> 1 where the mark had that value and is gone.
UNMARK: Final = Script(2, _UNMARK)
