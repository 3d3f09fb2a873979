"""Every error a caller of `core` can meet.

Owns the hierarchy; never catches or translates anything itself.
Driver errors are translated once, in `core.database`.
"""


class EchoMarketsError(Exception):
    """Base class of every error that `core` raises on purpose."""


class InvalidInput(EchoMarketsError, ValueError):
    """An argument is outside what the call accepts; nothing was changed."""


class SettingsError(EchoMarketsError, ValueError):
    """An environment variable is missing or has a value that is not allowed."""


class UserNotFound(EchoMarketsError, LookupError):
    """No user has this id or username."""


class PortfolioNotFound(EchoMarketsError, LookupError):
    """The user has no portfolio in this session."""


class QuestNotFound(EchoMarketsError, LookupError):
    """No quest has this id."""


class LeaderboardEntryNotFound(EchoMarketsError, LookupError):
    """The user has no entry on this leaderboard."""


class PoolTimeout(EchoMarketsError, TimeoutError):
    """No connection became free within the checkout timeout."""


class PoolClosed(EchoMarketsError):
    """The pool was closed; the process is shutting down."""


class DatabaseUnavailable(EchoMarketsError):
    """PostgreSQL cannot be reached or ended the connection."""


class QueryTimeout(EchoMarketsError, TimeoutError):
    """The server cancelled a statement that ran longer than DATABASE_QUERY_TIMEOUT."""


class DatabaseError(EchoMarketsError):
    """PostgreSQL refused a statement for a reason that no other error names."""


class MigrationFailed(EchoMarketsError):
    """A migration could not be applied or reverted; its transaction was rolled back."""


class PriceFileError(InvalidInput):
    """A price file has a row that cannot be read; nothing was loaded."""
