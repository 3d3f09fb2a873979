"""The public class of the service, which has all its calls."""

from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Self
from uuid import UUID

from core.cache import Cache
from core.database import Database
from core.database.database import DRAIN_SECONDS
from core.database.identity import Identity, find_identity
from core.database.roles import PLAYER
from core.database.row_security import find_obstacle
from core.errors import PlayersNotIsolated
from core.health import CHECK_SECONDS, HealthEvaluator
from core.metrics import Metrics
from core.records import Health
from core.service.argument_checks import check_id, check_seconds
from core.service.audit import Audit
from core.service.consistency import Consistency
from core.service.email_encryption import UserEmails
from core.service.encryption_keys import EncryptionKeys
from core.service.events import Events
from core.service.leaderboard_reports import LeaderboardReports
from core.service.loads import Loads
from core.service.operations import Operations
from core.service.partitions import Partitions
from core.service.player_reports import PlayerReports
from core.service.player_view import PlayerView
from core.service.portfolios import Portfolios
from core.service.quest_reports import QuestReports
from core.service.record_conversions import RecordConversions
from core.service.sessions import Sessions


class EnhancedDatabaseService(
    Audit,
    Operations,
    Partitions,
    Portfolios,
    PlayerReports,
    Sessions,
    LeaderboardReports,
    QuestReports,
    Events,
    Loads,
    EncryptionKeys,
    Consistency,
    RecordConversions,
):
    """All calls on the users, portfolios, market, leaderboards, quests and events of Echo Markets.

    Thread safe. Open one per process with `core.open_service`, and close it with `close` or as a context
    manager. Every call that asks the database may raise `DatabaseUnavailable`, `PoolTimeout`, `PoolClosed`,
    `QueryTimeout` or another `DatabaseError`. A failure of the cache raises no error.

    A docstring says how old an answer can be while the database answers. While it does not, a cached read may
    return the last known value, and `stale_seconds()` says how old that value is. A change "through the
    service" is one by a call of this class, in any process. An uncached answer comes from the database. With
    DATABASE_REPLICA_URLS it has every write of this process, and the writes of other processes that
    committed at least 1.5 s ago; `at_least` guarantees more (docs/replicas.md).
    """

    def __init__(
        self,
        *,
        database: Database,
        cache: Cache,
        emails: UserEmails,
        health: HealthEvaluator,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        super().__init__(database, cache, emails=emails, metrics=metrics, clock=clock)
        self._health = health
        self._is_isolated = False

    def as_user(self, user_id: UUID | str) -> PlayerView:
        """Return a player's view: its calls see and change the rows of this player, and see public rows.

        The database hides the profile, portfolios, positions, trades and quests of every other player. For a
        user that does not exist, the view has only public rows. The first `as_user` of a process checks that
        the database limits players to their rows. Raises `PlayersNotIsolated` if it does not, and
        `InvalidInput`.
        """
        checked = check_id(user_id, "user_id")
        if not self._is_isolated:
            obstacle = self._read_current(lambda database: find_obstacle(database.execute_sql))
            if obstacle is not None:
                raise PlayersNotIsolated(
                    f"players have no view of this database, because {obstacle}; run `echo-markets roles` and"
                    " `echo-markets migrate`, and connect as the application's role"
                )
            self._is_isolated = True
        outer = find_identity() or Identity()
        # inside acting_as, the audit log names the person who acts for the player
        identity = Identity(
            role=PLAYER,
            user_id=checked,
            actor=outer.actor or str(checked),
            request_id=outer.request_id,
        )
        return PlayerView(self, checked, identity)

    def health(self, limit_seconds: float = CHECK_SECONDS) -> Health:
        """Return the health of the database and Redis, checked within a second and outside the pool.

        The answer is up to two seconds old; `timestamp` says when it was checked. A check that takes longer
        than `limit_seconds` (0 to 3600; more than 1 means 1) counts as failed. Raises `InvalidInput`.
        """
        limit = check_seconds(limit_seconds, "limit_seconds")
        return self._health.evaluate(limit)

    def close(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Wait up to `drain_seconds` (0 to 3600) for running calls to end, then close every connection.

        Later calls raise `PoolClosed`, even if the cache could answer. Only `health`, `pool_stats` and
        `cache_stats` still answer. A second `close` does nothing. Raises `InvalidInput`, and then closes
        nothing.
        """
        drain_seconds = check_seconds(drain_seconds, "drain_seconds")
        self._database.shut_down(drain_seconds)
        self._cache.close()
        self.metrics.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
