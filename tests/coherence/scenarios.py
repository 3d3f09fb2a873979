"""The interleavings in which a cache goes wrong, each forced by latches.

Owns the steps; each scenario drives three processes and leaves a history. Process 0 writes,
1 is held somewhere, 2 looks at what came of it. Nothing here depends on luck or on time,
but for the bound of a near cache that hears nothing: a step waits until what it sent has arrived,
and until a thread is where it has to be.
"""

import time
from collections.abc import Callable

from tests.coherence.fleet import PATIENCE_SECONDS, Fleet
from tests.coherence.history import NEAR_BOUND_SECONDS
from tests.patience import wait_until


def fill_late(fleet: Fleet) -> None:
    """A reader loads the old row, a writer commits and invalidates, the reader fills."""
    game = fleet.start_game()
    fleet[1].hold("reader", "loaded", "read", game, "user", 0)
    fleet[0].call("write", game, {"name:0": 2})
    fleet[1].end("reader")
    fleet.read(2, game, "user", 0)


def fill_after_the_lease_expired(fleet: Fleet) -> None:
    """The re-lock: a lease expires while its reader loads, and another fills in between."""
    game = fleet.start_game()
    fleet[1].hold("slow", "loaded", "read", game, "user", 0)
    assert fleet.redis.delete(f"user:{game.users[0]}") == 1, "the lease"
    fleet[0].call("write", game, {"name:0": 2})
    fleet[2].hold("second", "loaded", "read", game, "user", 0)
    fleet[1].end("slow")
    fleet[2].end("second")
    fleet.read(0, game, "user", 0)
    fleet.read(1, game, "user", 0)


def fill_between_fence_and_commit(fleet: Fleet) -> None:
    """A reader loads while the writer is about to commit, and fills before it does."""
    game = fleet.start_game()
    fleet[0].hold("writer", "fenced", "write", game, {"name:0": 2})
    fleet.read(1, game, "user", 0)
    fleet[0].end("writer")
    fleet.read(2, game, "user", 0)


def die_after_commit(fleet: Fleet) -> None:
    """A process is killed between its COMMIT and its invalidation."""
    game = fleet.start_game()
    fleet.read(1, game, "user", 0)
    fleet.expect({"name:0": 2})
    fleet[0].hold("writer", "committed", "write", game, {"name:0": 2})
    fleet[0].kill()
    fleet.observe(game, "name:0")
    fleet.read(2, game, "user", 0)


def die_beside_another_writer(fleet: Fleet) -> None:
    """Two processes invalidate one leaderboard: the release of one must not lift the other's fence."""
    game = fleet.start_game()
    fleet.read(1, game, "leaderboard", 5)
    fleet.expect({"score:0": 2})
    fleet[0].hold("writer", "fenced", "write", game, {"score:0": 2})
    fleet[1].call("write", game, {"score:1": 2})
    fleet.read(2, game, "leaderboard", 5)
    assert fleet[0].call("go_to", "committed")
    fleet[0].kill()
    fleet.observe(game, "score:0")
    fleet.read(1, game, "leaderboard", 10)
    fleet.read(2, game, "leaderboard", 5)


def lose_the_reply(fleet: Fleet) -> None:
    """The ambiguous COMMIT: it happened, and its answer did not arrive."""
    game = fleet.start_game()
    fleet.read(1, game, "user", 0)
    fleet[0].call("lose_next_answer")
    fleet[0].call("write", game, {"name:0": 2})
    fleet.observe(game, "name:0")
    fleet.read(0, game, "user", 0)
    fleet.read(2, game, "user", 0)


def fill_before_an_autocommit_statement(fleet: Fleet) -> None:
    """A statement that commits itself has its fence before it: who loads until then may not fill."""
    game = fleet.start_game()
    fleet[0].hold("writer", "fenced", "write", game, {"value:0": 2})
    fleet.read(1, game, "portfolio", 0)
    fleet[0].end("writer")
    fleet.read(2, game, "portfolio", 0)


def die_after_an_autocommit_statement(fleet: Fleet) -> None:
    """A process is killed between a statement that has committed itself and its invalidation."""
    game = fleet.start_game()
    fleet.read(1, game, "portfolio", 0)
    fleet.expect({"value:0": 2})
    fleet[0].hold("writer", "committed", "write", game, {"value:0": 2})
    fleet[0].kill()
    fleet.observe(game, "value:0")
    fleet.read(2, game, "portfolio", 0)


def lose_the_reply_of_an_autocommit_statement(fleet: Fleet) -> None:
    """The statement has committed itself, and its answer did not arrive."""
    game = fleet.start_game()
    fleet.read(1, game, "portfolio", 0)
    fleet[0].call("lose_next_answer")
    fleet[0].call("write", game, {"value:0": 2})
    fleet.observe(game, "value:0")
    fleet.read(0, game, "portfolio", 0)
    fleet.read(2, game, "portfolio", 0)


def write_a_near_cached_value(fleet: Fleet) -> None:
    """Another process changes what a near cache holds."""
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
    """A value is on its way from Redis into the near cache while its own process writes."""
    game = fleet.start_game()
    fleet.read(2, game, "user", 0)
    fleet[1].hold("reader", "fetched", "read", game, "user", 0)
    fleet[1].call("write", game, {"name:0": 2})
    # the messages of the write come too early to correct what the reader admits
    fleet.await_feed(1)
    fleet[1].end("reader")
    fleet.read(1, game, "user", 0)


def join_late(fleet: Fleet) -> None:
    """A thread comes after a write and finds a read under way that began before it."""
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
    """Redis cannot be told of a write, comes back with the old value, and the writer idles."""
    game = fleet.start_game()
    fleet.read(2, game, "user", 0)
    with fleet.stopped_redis():
        fleet[0].call("write", game, {"name:0": 2})
    wait_until(lambda: not fleet[0].call("count_pending"), "the outbox is empty", PATIENCE_SECONDS)
    fleet.wait_until_used()
    fleet.read(1, game, "user", 0)


def write_while_cut_off(fleet: Fleet) -> None:
    """The writer alone does not reach Redis, which the others read meanwhile; then it idles."""
    game = fleet.start_game()
    fleet.read(2, game, "user", 0)
    fleet[0].call("lose_redis")
    fleet[0].call("write", game, {"name:0": 2})
    fleet.read(0, game, "user", 0)
    fleet[0].call("regain_redis")
    fleet.wait_until_used()
    fleet.read(1, game, "user", 0)


def rename_a_player(fleet: Fleet) -> None:
    """A player on cached leaderboards of several limits gets another name."""
    game = fleet.start_game()
    for limit in (1, 5, 50):
        fleet.read(1, game, "leaderboard", limit)
    fleet[0].call("write", game, {"username:0": 2, "username:1": 2})
    for limit in (1, 5, 50):
        fleet.read(2, game, "leaderboard", limit)


def change_every_limit(fleet: Fleet) -> None:
    """An entry changes, and every cached limit of its leaderboard with it."""
    game = fleet.start_game()
    for limit in (1, 5, 50):
        fleet.read(1, game, "leaderboard", limit)
    fleet[0].call("write", game, {"score:0": 7, "score:1": 7})
    for limit in (1, 5, 50, 2):
        fleet.read(2, game, "leaderboard", limit)


def fill_a_leaderboard_late(fleet: Fleet) -> None:
    """A leaderboard is loaded under one name of a player and filled after the rename."""
    game = fleet.start_game()
    fleet[1].hold("reader", "loaded", "read", game, "leaderboard", 5)
    fleet[0].call("write", game, {"username:0": 2})
    fleet[1].end("reader")
    fleet.read(2, game, "leaderboard", 5)


def create_a_version_key_twice(fleet: Fleet) -> None:
    """The ABA problem: a leaderboard is filled under a version, which is deleted and created again.

    The reader that created the version is held while its own value is outdated. A cache that then
    asks for another lease under the same token gives the version key the value that the other
    leaderboard was filled under.
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
    """Another process writes, and the replica that a reader asks has not replayed it."""
    game = fleet.start_game()
    fleet.use_replica(1, f"user:{game.users[0]}")
    with fleet.paused_replay():
        fleet[0].call("write", game, {"name:0": 2})
        fleet.read(1, game, "user", 0)
        fleet.read(2, game, "user", 0)


def die_after_a_commit_that_is_not_replayed(fleet: Fleet) -> None:
    """A process is killed before it leaves the LSN of its COMMIT, and then its fence expires."""
    game = fleet.start_game()
    fleet.use_replica(1, f"user:{game.users[0]}")
    with fleet.paused_replay():
        fleet.expect({"name:0": 2})
        fleet[0].hold("writer", "committed", "write", game, {"name:0": 2})
        fleet[0].kill()
        fleet.observe(game, "name:0")
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
        rename_a_player,
        change_every_limit,
        fill_a_leaderboard_late,
        create_a_version_key_twice,
    )
}

# What is broken in every process -> the scenarios that show it.
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
    "skip_username_versions": ("rename_a_player",),
    "skip_leaderboard_versions": ("change_every_limit",),
    "ignore_unknown_commits": ("lose_the_reply", "lose_the_reply_of_an_autocommit_statement"),
}
