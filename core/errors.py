"""The classes of all errors that a caller of `core` can get.

Driver errors are translated to them once, in `core.database.driver_errors`.
"""

from collections.abc import Mapping


class EchoMarketsError(Exception):
    """Base class of every error that `core` raises on purpose."""


class InvalidInput(EchoMarketsError, ValueError):
    """The call does not accept the value of an argument; nothing was changed."""


class SettingsError(EchoMarketsError, ValueError):
    """An environment variable is missing or has a value that is not allowed."""


class EncryptionKeyMissing(SettingsError):
    """ENCRYPTION_KEYS has no key, so a value cannot be encrypted or searched for; nothing was changed."""


class MissingExtra(EchoMarketsError, ImportError):
    """A package is not installed. The message names the extra of `echo-markets` that contains it."""


class UserNotFound(EchoMarketsError, LookupError):
    """No user has this id or username."""


class PortfolioNotFound(EchoMarketsError, LookupError):
    """The user has no portfolio in this session."""


class QuestNotFound(EchoMarketsError, LookupError):
    """No quest has this id."""


class LeaderboardEntryNotFound(EchoMarketsError, LookupError):
    """The user has no entry on this leaderboard."""


class PoolTimeout(EchoMarketsError, TimeoutError):
    """No connection of the pool became free within DATABASE_POOL_TIMEOUT."""


class PoolClosed(EchoMarketsError):
    """The pool was closed; the process is shutting down."""


class DatabaseUnavailable(EchoMarketsError):
    """PostgreSQL cannot be reached, accepts no writes, or ended the connection."""


class ConnectFailed(DatabaseUnavailable):
    """No connection could be opened; nothing was changed.

    `is_refused` is True if the server answered and refused the connection. Open connections then still work.
    """

    def __init__(self, message: str, *, is_refused: bool = False) -> None:
        super().__init__(message)
        self.is_refused = is_refused


class ConnectionsExhausted(ConnectFailed):
    """The server, the role or a pooler has no connection left. Open connections still work."""


class ServerHung(DatabaseUnavailable):
    """PostgreSQL did not answer a statement in time, so the call stopped waiting for the answer."""


class QueryTimeout(EchoMarketsError, TimeoutError):
    """The server cancelled a statement that ran longer than DATABASE_QUERY_TIMEOUT."""


class DatabaseError(EchoMarketsError):
    """PostgreSQL refused a statement. The subclasses stand for frequent reasons."""


class ConstraintViolated(DatabaseError):
    """A write violated a constraint of the database and was undone.

    `constraint` is the name of the constraint in the schema. `key` maps the columns of the constraint to the
    refused values, as text. `key` is empty if the server does not report the values.
    """

    def __init__(
        self, message: str, constraint: str | None = None, key: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.constraint = constraint
        self.key = dict(key or {})


class NumberRefused(DatabaseError, InvalidInput):
    """A number has more digits than PostgreSQL can store; nothing was changed."""


class TransactionConflict(DatabaseError):
    """PostgreSQL undid a call because it conflicted with another writer. Repeat the whole transaction.

    Inside `transaction()`, the earlier calls of the block may not be undone yet. Let this error leave the
    block, which undoes them, and run the whole block again.
    """


class NotSupported(DatabaseError):
    """The database cannot run this call: for example, it is a Citus cluster. Nothing was changed."""


class PlayersNotIsolated(DatabaseError):
    """The database does not limit players to their own rows, so no call can act for a player.

    Nothing was read.
    """


class TransactionMisused(DatabaseError, RuntimeError):
    """A call used a transaction of another thread or task, or one that began with another identity.

    `acting_as` sets the identity. The error is also raised if a thread pool itself enters a `transaction()`
    block, as with a FastAPI dependency that yields: the thread would run other functions before the block
    ends. The failed call stored nothing.
    """


class MigrationFailed(EchoMarketsError):
    """A migration could not be applied or reverted; its transaction was rolled back."""


class RowsWouldBeLost(EchoMarketsError):
    """A call would delete or replace rows, and its caller did not allow this; nothing was changed."""


class PriceFileError(InvalidInput):
    """A price file has a row that cannot be read; nothing was loaded."""


class StackError(EchoMarketsError):
    """A process of `make up`, or a server for tests, cannot be started or stopped."""
