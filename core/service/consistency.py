"""Consistency: lets reads on a replica see at least the commits that a token names."""

from contextlib import AbstractContextManager

from core.database import log_positions
from core.errors import DatabaseUnavailable, InvalidInput
from core.records import ReplicaStats
from core.service.inputs import show
from core.service.writes import ServiceBase


class Consistency(ServiceBase):
    """The consistency area of the service."""

    def consistency_token(self) -> str:
        """Return a token for everything committed so far; any process can pass it to `at_least`.

        Asks the primary. The token is a short text of one line; it holds no secret. Raises
        `DatabaseUnavailable` also when DATABASE_URL names a standby.
        """
        token = self._read_current(lambda database: log_positions.read_token(database.execute_sql))
        if token is None:
            raise DatabaseUnavailable("a standby has no consistency token; point DATABASE_URL at the primary")
        return str(token)

    def at_least(self, token: str) -> AbstractContextManager[None]:
        """Let the reads of a `with` block see at least what was committed when the token was made.

        The reads run on a replica that has replayed these commits, else on the primary. Cached calls read
        the database too, and store nothing in the cache. With a token of another database, or from before a
        failover, the reads run on the primary. Blocks nest; a thread that is started in the block is not
        part of it. Raises `InvalidInput` for a text that `consistency_token` did not return.
        """
        parsed = log_positions.parse_token(token)
        if parsed is None:
            raise InvalidInput(f"token is {show(token)}; give what consistency_token() returned")
        return log_positions.at_least(parsed)

    def replica_stats(self) -> tuple[ReplicaStats, ...]:
        """Return the state of each replica of DATABASE_REPLICA_URLS as this process sees it, in their order.

        At most a second old; asks no server.
        """
        return self._database.replica_stats()
