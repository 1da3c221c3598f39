"""Which studies and series jobs expect at a receiver: what comes beside them, nobody has asked for.

One sorted set in Redis for each receiver. A member is a study, a series (empty for the whole study) and who expects it;
its score is when that runs out, by the server's clock. So a worker that dies takes back what it expected, and one that
no longer expects a series takes nothing from another who does.
"""

from __future__ import annotations

import redis

from pacs_tasks.ledger.scripts import NOW, Scripts

_PREFIX = "pacs_tasks:expected:"
#: Seconds for which a series is expected after the last word of who expects it.
LIFETIME = 60.0


class Expected:
    """What is expected at the receivers of one Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._run = Scripts(client).run

    def expect(self, receiver_ae_title: str, study_uid: str, series_uid: str, owner: str, seconds: float) -> None:
        """Expect a series for so many seconds from now; ``series_uid`` is empty for the whole study."""
        member = f"{_of(study_uid, series_uid)}{owner}"
        self._run(_EXPECT, [_PREFIX + receiver_ae_title], [member, seconds])

    def forget(self, receiver_ae_title: str, study_uid: str, series_uid: str, owner: str) -> None:
        """No longer expect it; others may."""
        member = f"{_of(study_uid, series_uid)}{owner}"
        self._run(_FORGET, [_PREFIX + receiver_ae_title], [member])

    def is_expected(self, receiver_ae_title: str, study_uid: str, series_uid: str) -> bool:
        """Whether anybody expects this series, or its whole study."""
        known_as = [_of(study_uid, series_uid), _of(study_uid, "")]
        return bool(self._run(_IS_EXPECTED, [_PREFIX + receiver_ae_title], known_as))


def _of(study_uid: str, series_uid: str) -> str:
    """How a member begins."""
    return f"{study_uid} {series_uid} "


#: expected; member, seconds. The set lives as long as the last of its members.
_EXPECT = (
    NOW
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.3f', now))
redis.call('ZADD', KEYS[1], string.format('%.3f', now + tonumber(ARGV[2])), ARGV[1])
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
redis.call('EXPIRE', KEYS[1], math.ceil(tonumber(last[2]) - now) + 1)
return 1
"""
)

#: expected; member.
_FORGET = "return redis.call('ZREM', KEYS[1], ARGV[1])"

#: expected; how members of a series begin, and of its whole study. 1 if one of them has not run out.
_IS_EXPECTED = (
    NOW
    + """
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], string.format('%.3f', now), '+inf')) do
  for _, beginning in ipairs(ARGV) do
    if string.sub(member, 1, #beginning) == beginning then
      return 1
    end
  end
end
return 0
"""
)
