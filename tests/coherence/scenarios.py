"""Interleavings that cause stale reads in a cache without safeguards; latches force each of them.

Owns the steps. Each scenario controls three processes, whose history is then checked. Usually process 0
writes, process 1 is held at a point, and process 2 reads afterwards. No step depends on chance: each step
waits until its messages have arrived or its thread has reached the point. Only two scenarios wait for a time:
for the bound of a near cache, and for the expiry of a fence.
"""

import time
from collections.abc import Callable

from tests.coherence.fleet import PATIENCE_SECONDS, Fleet
from tests.coherence.history import NEAR_BOUND_SECONDS
from tests.patience import wait_until


def fill_late(fleet: Fleet) -> None:
    """A reader loads the old row, a writer commits and invalidates, then the reader tries to fill."""
    game = fleet.start_game()
    fleet[1].hold("reader", "loaded", "read", game, "user", 0)
    fleet[0].call("write", game, {"name:0": 2})
    fleet[1].end("reader")
    fleet.read(2, game, "user", 0)


def fill_after_the_lease_expired(fleet: Fleet) -> None:
    """The lease of a slow reader expires, another reader leases the key, then both try to fill."""
    game = fleet.start_game()
    fleet[1].hold("slow", "loaded", "read", game, "user", 0)
    assert fleet.redis.delete(f"user:{game.users[0]}") == 1, "there is no lease"
    fleet[0].call("write", game, {"name:0": 2})
    fleet[2].hold("second", "loaded", "read", game, "user", 0)
    fleet[1].end("slow")
    fleet[2].end("second")
    fleet.read(0, game, "user", 0)
    fleet.read(1, game, "user", 0)


def fill_between_fence_and_commit(fleet: Fleet) -> None:
    """Between the fence and the commit of a writer, a reader loads the old row and tries to fill."""
    game = fleet.start_game()
    fleet[0].hold("writer", "fenced", "write", game, {"name:0": 2})
    fleet.read(1, game, "user", 0)
    fleet[0].end("writer")
    fleet.read(2, game, "user", 0)


def die_after_commit(fleet: Fleet) -> None:
    """A writer is killed between its COMMIT and its invalidation."""
    game = fleet.start_game()
    fleet.read(1, game, "user", 0)
    fleet.record_unknown({"name:0": 2})
    fleet[0].hold("writer", "committed", "write", game, {"name:0": 2})
    fleet[0].kill()
    fleet.record_committed(game, "name:0")
    fleet.read(2, game, "user", 0)


def die_beside_another_writer(fleet: Fleet) -> None:
    """Two writers fence one leaderboard; the second releases, then the first is killed after its COMMIT."""
    game = fleet.start_game()
    fleet.read(1, game, "leaderboard", 5)
    fleet.record_unknown({"score:0": 2})
    fleet[0].hold("writer", "fenced", "write", game, {"score:0": 2})
    fleet[1].call("write", game, {"score:1": 2})
    fleet.read(2, game, "leaderboard", 5)
    assert fleet[0].call("go_to", "committed")
    fleet[0].kill()
    fleet.record_committed(game, "score:0")
    fleet.read(1, game, "leaderboard", 10)
    fleet.read(2, game, "leaderboard", 5)


def lose_the_reply(fleet: Fleet) -> None:
    """A COMMIT succeeds, but its reply does not reach the writer."""
    game = fleet.start_game()
    fleet.read(1, game, "user", 0)
    fleet[0].call("lose_next_answer")
    fleet[0].call("write", game, {"name:0": 2})
    fleet.record_committed(game, "name:0")
    fleet.read(0, game, "user", 0)
    fleet.read(2, game, "user", 0)


def fill_before_an_autocommit_statement(fleet: Fleet) -> None:
    """Between the fence and an autocommit statement, a reader loads the old row and tries to fill."""
    game = fleet.start_game()
    fleet[0].hold("writer", "fenced", "write", game, {"value:0": 2})
    fleet.read(1, game, "portfolio", 0)
    fleet[0].end("writer")
    fleet.read(2, game, "portfolio", 0)


def die_after_an_autocommit_statement(fleet: Fleet) -> None:
    """A writer is killed between an autocommit statement and its invalidation."""
    game = fleet.start_game()
    fleet.read(1, game, "portfolio", 0)
    fleet.record_unknown({"value:0": 2})
    fleet[0].hold("writer", "committed", "write", game, {"value:0": 2})
    fleet[0].kill()
    fleet.record_committed(game, "value:0")
    fleet.read(2, game, "portfolio", 0)


def lose_the_reply_of_an_autocommit_statement(fleet: Fleet) -> None:
    """An autocommit statement succeeds, but its reply does not reach the writer."""
    game = fleet.start_game()
    fleet.read(1, game, "portfolio", 0)
    fleet[0].call("lose_next_answer")
    fleet[0].call("write", game, {"value:0": 2})
    fleet.record_committed(game, "value:0")
    fleet.read(0, game, "portfolio", 0)
    fleet.read(2, game, "portfolio", 0)


def write_a_near_cached_value(fleet: Fleet) -> None:
    """A process writes a value that is in the near cache of another process."""
    game = fleet.start_game()
    for _ in range(3):
        fleet.read(1, game, "user", 0)
    fleet[0].call("write", game, {"name:0": 2})
    written = time.monotonic()
    wait_until(
        lambda: time.monotonic() > written + NEAR_BOUND_SECONDS, "the bound of a near cache", PATIENCE_SECONDS
    )
    fleet.read(1, game, "user", 0)


def admit_late(fleet: Fleet) -> None:
    """A process writes between the fetch of a value from Redis and its admission to the near cache."""
    game = fleet.start_game()
    fleet.read(2, game, "user", 0)
    fleet[1].hold("reader", "fetched", "read", game, "user", 0)
    fleet[1].call("write", game, {"name:0": 2})
    # the invalidation arrives before the reader admits the value, so it cannot remove this value
    fleet.await_feed(1)
    fleet[1].end("reader")
    fleet.read(1, game, "user", 0)


def join_late(fleet: Fleet) -> None:
    """A read begins after a write, while a read of the same key from before the write still runs."""
    game = fleet.start_game()
    fleet[1].hold("early", "loaded", "read", game, "user", 0)
    fleet[1].call("write", game, {"name:0": 2})
    fleet[1].call("begin", "late", "read", game, "user", 0)
    wait_until(
        lambda: fleet[1].call("has_joined_or_ended", "late"), "the thread waits or has read", PATIENCE_SECONDS
    )
    fleet[1].end("early")
    assert fleet[1].call("finish", "late")


def write_while_redis_hangs(fleet: Fleet) -> None:
    """Redis hangs during a write and resumes with the old value, which only the outbox can invalidate."""
    game = fleet.start_game()
    fleet.read(2, game, "user", 0)
    with fleet.stopped_redis():
        fleet[0].call("write", game, {"name:0": 2})
    wait_until(lambda: not fleet[0].call("count_pending"), "the outbox is empty", PATIENCE_SECONDS)
    fleet.wait_until_recovered()
    fleet.read(1, game, "user", 0)


def write_while_cut_off(fleet: Fleet) -> None:
    """Only the writer is cut off from Redis and reconnected; only its outbox can invalidate the old value."""
    game = fleet.start_game()
    fleet.read(2, game, "user", 0)
    fleet[0].call("lose_redis")
    fleet[0].call("write", game, {"name:0": 2})
    fleet.read(0, game, "user", 0)
    fleet[0].call("regain_redis")
    fleet.wait_until_recovered()
    fleet.read(1, game, "user", 0)


def rename_players(fleet: Fleet) -> None:
    """Two players of a leaderboard are renamed; this leaderboard is cached with several limits."""
    game = fleet.start_game()
    for limit in (1, 5, 50):
        fleet.read(1, game, "leaderboard", limit)
    fleet[0].call("write", game, {"username:0": 2, "username:1": 2})
    for limit in (1, 5, 50):
        fleet.read(2, game, "leaderboard", limit)


def change_every_limit(fleet: Fleet) -> None:
    """Two entries change on a leaderboard that is cached with several limits."""
    game = fleet.start_game()
    for limit in (1, 5, 50):
        fleet.read(1, game, "leaderboard", limit)
    fleet[0].call("write", game, {"score:0": 7, "score:1": 7})
    for limit in (1, 5, 50, 2):
        fleet.read(2, game, "leaderboard", limit)


def fill_a_leaderboard_late(fleet: Fleet) -> None:
    """A reader loads a leaderboard, a player is renamed, then the reader tries to fill."""
    game = fleet.start_game()
    fleet[1].hold("reader", "loaded", "read", game, "leaderboard", 5)
    fleet[0].call("write", game, {"username:0": 2})
    fleet[1].end("reader")
    fleet.read(2, game, "leaderboard", 5)


def create_a_version_key_twice(fleet: Fleet) -> None:
    """The ABA problem: a leaderboard is filled under a version key that is deleted and created again.

    Process 1 creates the version key and is held. Process 2 fills another limit of the leaderboard under this
    version, and a write deletes the version key. If process 1 then created the key with the same token again,
    the outdated value of process 2 would be valid.
    """
    game = fleet.start_game()
    for limit in (10, 50):
        fleet.read(1, game, "leaderboard", limit)
    fleet[0].call("write", game, {"score:0": 2})
    fleet[1].hold("first", "fetched", "read", game, "leaderboard", 10)
    fleet.read(2, game, "leaderboard", 50)
    fleet[0].call("write", game, {"score:0": 3})
    fleet[1].end("first")
    fleet.read(2, game, "leaderboard", 50)
    fleet.read(0, game, "leaderboard", 50)


def fill_from_a_replica_that_is_behind(fleet: Fleet) -> None:
    """A process writes, and another process loads from a replica that has not replayed the write."""
    game = fleet.start_game()
    fleet.wait_for_replica(1, f"user:{game.users[0]}")
    with fleet.paused_replay():
        fleet[0].call("write", game, {"name:0": 2})
        fleet.read(1, game, "user", 0)
        fleet.read(2, game, "user", 0)


def die_after_a_commit_that_is_not_replayed(fleet: Fleet) -> None:
    """A writer is killed before it stores the LSN of its COMMIT; its fence expires while the replica lags."""
    game = fleet.start_game()
    fleet.wait_for_replica(1, f"user:{game.users[0]}")
    with fleet.paused_replay():
        fleet.record_unknown({"name:0": 2})
        fleet[0].hold("writer", "committed", "write", game, {"name:0": 2})
        fleet[0].kill()
        fleet.record_committed(game, "name:0")
        fleet.read(1, game, "user", 0)
        wait_until(
            lambda: not fleet.redis.exists(f"user:{game.users[0]}"), "the fence expires", PATIENCE_SECONDS
        )
        fleet.read(1, game, "user", 0)
        fleet.read(2, game, "user", 0)


REPLICA_SCENARIOS: dict[str, Callable[[Fleet], None]] = {
    scenario.__name__: scenario
    for scenario in (fill_from_a_replica_that_is_behind, die_after_a_commit_that_is_not_replayed)
}

SCENARIOS: dict[str, Callable[[Fleet], None]] = {
    scenario.__name__: scenario
    for scenario in (
        fill_late,
        fill_after_the_lease_expired,
        fill_between_fence_and_commit,
        die_after_commit,
        die_beside_another_writer,
        lose_the_reply,
        fill_before_an_autocommit_statement,
        die_after_an_autocommit_statement,
        lose_the_reply_of_an_autocommit_statement,
        write_a_near_cached_value,
        admit_late,
        join_late,
        write_while_redis_hangs,
        write_while_cut_off,
        rename_players,
        change_every_limit,
        fill_a_leaderboard_late,
        create_a_version_key_twice,
    )
}

# mutant -> scenarios in which a read must be stale if every process has this mutant
REVEALED_BY: dict[str, tuple[str, ...]] = {
    "fill_without_lease": ("fill_late",),
    "invalidate_before_commit": ("fill_between_fence_and_commit", "fill_before_an_autocommit_statement"),
    "ignore_feed": ("write_a_near_cached_value",),
    "commit_without_fence": ("die_after_commit", "die_after_an_autocommit_statement"),
    "overwrite_fences": ("die_beside_another_writer",),
    "reuse_version_token": ("create_a_version_key_twice",),
    "admit_without_ticket": ("admit_late",),
    "join_any_flight": ("join_late",),
    "drop_outbox": ("write_while_cut_off",),
    "skip_username_versions": ("rename_players",),
    "skip_leaderboard_versions": ("change_every_limit",),
    "ignore_unknown_commits": ("lose_the_reply", "lose_the_reply_of_an_autocommit_statement"),
}
