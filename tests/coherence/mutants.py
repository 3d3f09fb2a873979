"""Mutants of the cache: each lacks one safeguard, to show that the coherence tests then fail.

Each function removes its safeguard from the service of one worker process.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from core import EnhancedDatabaseService
from core.cache import NO_FENCE, NO_TOKEN, Fence, leases_and_fences
from core.cache import feed as feed_module
from core.cache import shared as shared_module
from core.cache.change_log import Ticket
from core.cache.client import Script
from core.cache.codec import VERSION_MARK, new_token
from core.cache.feed import InvalidationFeed
from core.cache.leases_and_fences import FENCE, FILL
from core.database import replica as replica_module

LONG_SILENCE_SECONDS = 600.0
UNCHECKED_FILL = FILL.text.replace("if found[i] == ARGV[1] then", "if true then").replace(
    "is_current = is_current and found[i] == ARGV[2 + count * 2 + (i - count)]", "is_current = true"
)
OVERWRITING_FENCE = """
for i = 1, #KEYS do
  redis.call('SET', KEYS[i], ARGV[1] .. '9999999999999', 'PX', ARGV[2])
end
return #KEYS
"""


def fill_without_lease(service: EnhancedDatabaseService) -> None:
    """Fill a loaded value even if its key was invalidated during the load."""
    assert UNCHECKED_FILL.count("true") == FILL.text.count("true") + 2, "the script has changed"
    _replace_script(service, FILL, Script(UNCHECKED_FILL))


def invalidate_before_commit(service: EnhancedDatabaseService) -> None:
    """Invalidate only before the commit, when other processes still load the old row."""
    cache: Any = service._cache
    invalidate = cache.invalidate

    def invalidate_early(keys: Sequence[str], _: bytes = NO_TOKEN) -> Fence:
        invalidate(keys)
        return NO_FENCE

    cache.fence = invalidate_early
    cache.invalidate = _do_nothing


def ignore_feed(service: EnhancedDatabaseService) -> None:
    """Ignore the invalidations of other processes, and never clear the near cache for a new timeline."""
    _keep_near_open()
    feed: Any = service._cache._feed
    feed.close()
    near: Any = service._cache._near
    near.clear = _do_nothing
    ignoring_feed: Any = InvalidationFeed(feed._connect, near, prefix="", capability=feed._capability)
    ignoring_feed._subscription, ignoring_feed._apply = feed._subscription, lambda message: message
    ignoring_feed.start()


def commit_without_fence(service: EnhancedDatabaseService) -> None:
    """Set no fence, so that the old value stays in Redis until after the commit."""
    cache: Any = service._cache
    cache.fence = lambda *_: NO_FENCE


def overwrite_fences(service: EnhancedDatabaseService) -> None:
    """Let a fence replace the fence of another writer, so that its release removes both."""
    _replace_script(service, FENCE, Script(OVERWRITING_FENCE))


def reuse_version_token(_: EnhancedDatabaseService) -> None:
    """Give a version key that is created again the same token as before."""
    module: Any = leases_and_fences
    make_token, same_token = module.new_token, new_token(VERSION_MARK)
    module.new_token = lambda mark: same_token if mark == VERSION_MARK else make_token(mark)


def admit_without_ticket(service: EnhancedDatabaseService) -> None:
    """Admit a value to the near cache even if its key was invalidated during the read."""
    _keep_near_open()
    near: Any = service._cache._near

    def admit(_: Ticket | None, values: Mapping[str, Any], depends_on: tuple[str, ...]) -> None:
        near.put(near._changes.take_ticket(), values, depends_on)

    near.end_read = admit


def join_any_flight(service: EnhancedDatabaseService) -> None:
    """Let a caller join a running read that began before an invalidation of the key."""
    _keep_near_open()
    single_flight: Any = service._cache._single_flight
    single_flight._is_outdated = lambda _: False


def drop_outbox(service: EnhancedDatabaseService) -> None:
    """Forget a failed invalidation after one more attempt, instead of keeping it in the outbox."""
    shared = _shared(service)
    outbox: Any = shared.guard.outbox

    def try_once(keys: Iterable[str], token: bytes) -> None:
        names = list(keys)
        try:
            shared.guard.scripts.release(names, token)
        except Exception:
            return

    outbox.add = try_once


def skip_username_versions(service: EnhancedDatabaseService) -> None:
    """Do not invalidate leaderboards when a player is renamed."""
    _skip_keys(service, "version:usernames")


def skip_leaderboard_versions(service: EnhancedDatabaseService) -> None:
    """Do not invalidate a leaderboard when an entry changes."""
    _skip_keys(service, "version:leaderboard")


def ignore_unknown_commits(service: EnhancedDatabaseService) -> None:
    """Set no fence, and do not invalidate when the outcome of a commit is unknown."""
    cache: Any = service._cache
    invalidate = cache.invalidate

    def invalidate_if_known(
        keys: Sequence[str], fence: Fence = NO_FENCE, *, outcome_known: bool = True, **rest: Any
    ) -> None:
        if outcome_known:
            invalidate(keys, fence, **rest)

    cache.fence = lambda *_: NO_FENCE
    cache.invalidate = invalidate_if_known


def skip_replay_check(service: EnhancedDatabaseService) -> None:
    """Read from a replica without the check that it has replayed the required LSN."""
    module: Any = replica_module
    module.format_lsn = lambda _: "0/0"
    _keep_replicas(service)


def drop_lsns(service: EnhancedDatabaseService) -> None:
    """Give readers LSN 0 in place of the LSN that a replica must have replayed."""
    module: Any = shared_module
    parse = module.parse_lease
    module.parse_lease = lambda *given, **named: parse(*given, **named)._replace(lsn=0)
    _keep_replicas(service)


def _keep_replicas(service: EnhancedDatabaseService) -> None:
    """Read from replicas that lag: a replica that is left out would hide the mutant."""
    database: Any = service._database
    database._lsns.find_floor = lambda: 0
    for replica in database.replicas:
        replica._set_reason = _do_nothing
        replica._reason = None


def _keep_near_open() -> None:
    """Keep the near cache open on a busy machine: a closed near cache would hide the mutant."""
    module: Any = feed_module
    module.SILENCE_SECONDS = LONG_SILENCE_SECONDS


def _skip_keys(service: EnhancedDatabaseService, prefix: str) -> None:
    cache: Any = service._cache
    fence, invalidate = cache.fence, cache.invalidate

    def list_kept(keys: Iterable[str]) -> list[str]:
        return [key for key in keys if not key.startswith(prefix)]

    cache.fence = lambda keys, token=NO_TOKEN: fence(list_kept(keys), token)
    cache.invalidate = lambda keys, held=NO_FENCE, **rest: invalidate(list_kept(keys), held, **rest)


def _replace_script(service: EnhancedDatabaseService, script: Script, other: Script) -> None:
    client = _shared(service)._client
    for name in ("run_each", "run_later", "send"):
        _replace_script_of(client, name, script, other)


def _replace_script_of(client: Any, name: str, script: Script, other: Script) -> None:
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

# Mutants that cause stale reads only with a replica.
REPLICA_MUTANTS = {mutant.__name__: mutant for mutant in (skip_replay_check, drop_lsns)}
