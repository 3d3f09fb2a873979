"""Reads on replicas: a consistency token makes the reads of any process see all commits before the token."""

from contextlib import AbstractContextManager

from core.database import read_consistency
from core.errors import DatabaseUnavailable, InvalidInput
from core.records import ReplicaStats
from core.service.argument_checks import show
from core.service.writes import ServiceBase


class Consistency(ServiceBase):
    """Calls of the service about reads on replicas."""

    def consistency_token(self) -> str:
        """Return a token with which `at_least` makes the reads of any process see every commit so far.

        Asks the primary for its current position in the log (LSN), which the token contains. The token is a
        short string without line breaks, and contains no secret. Raises `DatabaseUnavailable`, also when
        DATABASE_URL names a standby.
        """
        token = self._read_current(lambda database: read_consistency.read_token(database.execute_sql))
        if token is None:
            raise DatabaseUnavailable("a standby has no consistency token; point DATABASE_URL at the primary")
        return str(token)

    def at_least(self, token: str) -> AbstractContextManager[None]:
        """Make the reads in a `with` block see at least every commit before the token was made.

        The reads run on a replica that has replayed these commits, or on the primary if there is none. In the
        block, cached calls read the database and store nothing in the cache. With a token of another
        database, or from before a failover, the reads run on the primary. Blocks nest. A thread that is
        started in the block is not part of it. Raises `InvalidInput` for a token that `consistency_token` did
        not return.
        """
        parsed = read_consistency.parse_token(token)
        if parsed is None:
            raise InvalidInput(f"token is {show(token)}; give what consistency_token() returned")
        return read_consistency.at_least(parsed)

    def replica_stats(self) -> tuple[ReplicaStats, ...]:
        """Return the state of each replica as this process sees it, in the order of DATABASE_REPLICA_URLS.

        The state is at most a second old. The call contacts no server.
        """
        return self._database.replica_stats()
