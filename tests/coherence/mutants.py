"""The cache with one of its safeguards removed each, to show that the suite notices.

Owns what is broken; each function changes the service of one worker process.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from core import EnhancedDatabaseService
from core.cache import NO_FENCE, NO_TOKEN, Fence, leases_and_fences
from core.cache import feed as feed_module
from core.cache import shared as shared_module
from core.cache.changes import Ticket
from core.cache.client import Script
from core.cache.codec import VERSION_MARK, new_token
from core.cache.feed import InvalidationFeed
from core.cache.leases_and_fences import FENCE, FILL
from core.database import replica as replica_module

PATIENT_SECONDS = 600.0
BLIND_FILL = FILL.text.replace("if found[i] == ARGV[1] then", "if true then").replace(
    "is_current = is_current and found[i] == ARGV[2 + count * 2 + (i - count)]", "is_current = true"
)
LONE_FENCE = """
for i = 1, #KEYS do
  redis.call('SET', KEYS[i], ARGV[1] .. '9999999999999', 'PX', ARGV[2])
end
return #KEYS
"""


def fill_without_lease(service: EnhancedDatabaseService) -> None:
    """Store what was loaded, whoever changed it meanwhile."""
    assert BLIND_FILL.count("true") == FILL.text.count("true") + 2, "the script has changed"
    _swap(service, FILL, Script(BLIND_FILL))


def invalidate_before_commit(service: EnhancedDatabaseService) -> None:
    """Drop the keys while the old row is still what others load, and not again."""
    cache: Any = service._cache
    invalidate = cache.invalidate

    def drop_early(keys: Sequence[str], _: bytes = NO_TOKEN) -> Fence:
        invalidate(keys)
        return NO_FENCE

    cache.fence = drop_early
    cache.invalidate = _do_nothing


def ignore_feed(service: EnhancedDatabaseService) -> None:
    """Hear nothing of what others change, nor of another timeline, which empties the near cache."""
    _keep_near_open()
    feed: Any = service._cache._feed
    feed.close()
    near: Any = service._cache._near
    near.clear = _do_nothing
    deaf: Any = InvalidationFeed(feed._connect, near, prefix="", capability=feed._capability)
    deaf._subscription, deaf._apply = feed._subscription, lambda message: message
    deaf.start()


def commit_without_fence(service: EnhancedDatabaseService) -> None:
    """Leave the old value in place until after the commit."""
    cache: Any = service._cache
    cache.fence = lambda *_: NO_FENCE


def overwrite_fences(service: EnhancedDatabaseService) -> None:
    """Let a writer's fence replace that of another, and take both away."""
    _swap(service, FENCE, Script(LONE_FENCE))


def reuse_version_token(_: EnhancedDatabaseService) -> None:
    """Give a version key that is created again the value that it had before."""
    module: Any = leases_and_fences
    draw, drawn = module.new_token, new_token(VERSION_MARK)
    module.new_token = lambda mark: drawn if mark == VERSION_MARK else draw(mark)


def admit_without_ticket(service: EnhancedDatabaseService) -> None:
    """Keep near what was read, whatever was heard of it meanwhile."""
    _keep_near_open()
    near: Any = service._cache._near

    def admit(_: Ticket | None, values: Mapping[str, Any], depends_on: tuple[str, ...]) -> None:
        near.put(near._changes.take_ticket(), values, depends_on)

    near.end_read = admit


def join_any_flight(service: EnhancedDatabaseService) -> None:
    """Share a read that began before the change."""
    _keep_near_open()
    single_flight: Any = service._cache._single_flight
    single_flight._is_outdated = lambda _: False


def drop_outbox(service: EnhancedDatabaseService) -> None:
    """Try to drop the keys once, and never again."""
    shared = _shared(service)
    outbox: Any = shared.guard.outbox

    def drop_once(keys: Iterable[str], token: bytes) -> None:
        names = list(keys)
        try:
            shared.guard.scripts.release(names, token)
        except Exception:
            return

    outbox.add = drop_once


def skip_username_versions(service: EnhancedDatabaseService) -> None:
    """Leave leaderboards as they are when a player is renamed."""
    _leave_out(service, "version:usernames")


def skip_leaderboard_versions(service: EnhancedDatabaseService) -> None:
    """Leave the other limits of a leaderboard as they are when an entry changes."""
    _leave_out(service, "version:leaderboard")


def ignore_unknown_commits(service: EnhancedDatabaseService) -> None:
    """Take a commit without an answer for one that did not happen."""
    cache: Any = service._cache
    invalidate = cache.invalidate

    def invalidate_known(
        keys: Sequence[str], fence: Fence = NO_FENCE, *, outcome_known: bool = True, **rest: Any
    ) -> None:
        if outcome_known:
            invalidate(keys, fence, **rest)

    cache.fence = lambda *_: NO_FENCE
    cache.invalidate = invalidate_known


def skip_replay_check(service: EnhancedDatabaseService) -> None:
    """Ask a replica without the check that it has replayed what was asked for."""
    module: Any = replica_module
    module.format_lsn = lambda _: "0/0"
    _keep_replicas(service)


def drop_lsns(service: EnhancedDatabaseService) -> None:
    """Tell readers nothing of where invalidations are in the log."""
    module: Any = shared_module
    parse = module.parse_lease
    module.parse_lease = lambda *given, **named: parse(*given, **named)._replace(lsn=0)
    _keep_replicas(service)


def _keep_replicas(service: EnhancedDatabaseService) -> None:
    """Use replicas that are behind for long: while one is left out, no mutant of it shows."""
    database: Any = service._database
    database._lsns.find_floor = lambda: 0
    for replica in database.replicas:
        replica._set_reason = _do_nothing
        replica._reason = None


def _keep_near_open() -> None:
    """Let the near cache serve although the machine is busy: while it is shut, no mutant of it shows."""
    module: Any = feed_module
    module.SILENCE_SECONDS = PATIENT_SECONDS


def _leave_out(service: EnhancedDatabaseService, prefix: str) -> None:
    cache: Any = service._cache
    fence, invalidate = cache.fence, cache.invalidate

    def keep(keys: Iterable[str]) -> list[str]:
        return [key for key in keys if not key.startswith(prefix)]

    cache.fence = lambda keys, token=NO_TOKEN: fence(keep(keys), token)
    cache.invalidate = lambda keys, held=NO_FENCE, **rest: invalidate(keep(keys), held, **rest)


def _swap(service: EnhancedDatabaseService, script: Script, other: Script) -> None:
    client = _shared(service)._client
    for name in ("run_each", "run_later", "send"):
        _give_instead(client, name, script, other)


def _give_instead(client: Any, name: str, script: Script, other: Script) -> None:
    run = getattr(client, name)
    setattr(
        client, name, lambda given, *rest, **named: run(other if given is script else given, *rest, **named)
    )


def _shared(service: EnhancedDatabaseService) -> Any:
    return service._cache._shared


def _do_nothing(*_: object, **__: object) -> None:
    return


MUTANTS: dict[str, Callable[[EnhancedDatabaseService], None]] = {
    mutant.__name__: mutant
    for mutant in (
        fill_without_lease,
        invalidate_before_commit,
        ignore_feed,
        commit_without_fence,
        overwrite_fences,
        reuse_version_token,
        admit_without_ticket,
        join_any_flight,
        drop_outbox,
        skip_username_versions,
        skip_leaderboard_versions,
        ignore_unknown_commits,
    )
}

# Those that show only where there is a replica.
REPLICA_MUTANTS = {mutant.__name__: mutant for mutant in (skip_replay_check, drop_lsns)}
