"""What the database server says of itself: for whoever runs the stack, not for the game."""

from core.queries import operations as queries
from core.records import StatementFigures, TableFigures, UnusedIndex
from core.service.base import ServiceBase
from core.service.inputs import check_limit


class Operations(ServiceBase):
    """The operations area of the service; nothing here is cached."""

    def list_table_sizes(self) -> tuple[TableFigures, ...]:
        """Return sizes in bytes and estimated rows of every table; `other` sums up foreign ones."""
        return self._read("list_table_sizes", queries.list_tables)

    def list_unused_indexes(self) -> tuple[UnusedIndex, ...]:
        """Return the indexes that no query used since the server's statistics were reset, largest first.

        Those that hold a constraint are not listed. A replica counts for itself.
        """
        return self._read("list_unused_indexes", queries.list_unused_indexes)

    def list_slowest_statements(self, limit: int = 10) -> tuple[StatementFigures, ...] | None:
        """Return the service's statements that took most time in all, in seconds.

        None when the server does not keep pg_stat_statements. Two operations that share a
        statement are counted under the one that ran it first. Raises `InvalidInput`.
        """
        return self._read("list_slowest_statements", queries.list_slowest_statements, check_limit(limit))
