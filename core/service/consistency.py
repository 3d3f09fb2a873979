"""Consistency: what a read must see, although it may run on a replica."""

from contextlib import AbstractContextManager

from core.database import log_positions
from core.errors import DatabaseUnavailable, InvalidInput
from core.records import ReplicaStats
from core.service.inputs import show
from core.service.writes import ServiceBase


class Consistency(ServiceBase):
    """The consistency area of the service."""

    def consistency_token(self) -> str:
        """Return a token of everything that is committed now, for `at_least` in any process.

        Asks the primary. The token is a short text of one line; it holds no secret. Raises
        `DatabaseUnavailable` also when DATABASE_URL names a standby.
        """
        token = self._read_current(lambda database: log_positions.read_token(database.execute_sql))
        if token is None:
            raise DatabaseUnavailable("a standby has no consistency token; point DATABASE_URL at the primary")
        return str(token)

    def at_least(self, token: str) -> AbstractContextManager[None]:
        """Let the reads of a `with` block see at least what was committed when the token was made.

        They run on a replica that has it, else on the primary; cached calls ask the database too, and
        store nothing. A token of another database, or of before a failover, means the primary. Blocks
        nest; a thread that is started in the block is not part of it. Raises `InvalidInput` for a text
        that `consistency_token` did not return.
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
