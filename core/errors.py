"""All errors that a caller of `core` can get.

Owns the class hierarchy; catches and translates no errors.
Driver errors are translated once, in `core.database.driver_errors`.
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
    """This part of the stack needs a package that is not installed; the message names the extra."""


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
    """PostgreSQL cannot be reached, accepts no writes, or ended the connection."""


class ConnectFailed(DatabaseUnavailable):
    """No connection could be opened; nothing was changed.

    `is_refused` means that the server answered and refused the connection; open connections still work.
    """

    def __init__(self, message: str, *, is_refused: bool = False) -> None:
        super().__init__(message)
        self.is_refused = is_refused


class ConnectionsExhausted(ConnectFailed):
    """The server, the role or a pooler accepts no further connection; open ones still work."""


class ServerHung(DatabaseUnavailable):
    """PostgreSQL did not answer a statement on an open connection in time; the call stopped waiting."""


class QueryTimeout(EchoMarketsError, TimeoutError):
    """The server cancelled a statement that ran longer than DATABASE_QUERY_TIMEOUT."""


class DatabaseError(EchoMarketsError):
    """PostgreSQL refused a statement for a reason that has no error class of its own."""


class ConstraintViolated(DatabaseError):
    """A write violated a constraint of the database and was undone.

    `constraint` is the name of the constraint in the schema. `key` maps the columns of the
    constraint to the values, as text, that violated it; it is empty if the server does not
    report them.
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
    """PostgreSQL undid a transaction, or one call in it, because of a conflict; repeat the transaction."""


class NotSupported(DatabaseError):
    """The database, such as a Citus cluster, does not support what a call needs; nothing was changed."""


class PlayersNotIsolated(DatabaseError):
    """The database does not limit players to their own rows, so no call can act for a player.

    Nothing was read.
    """


class TransactionMisused(DatabaseError, RuntimeError):
    """A transaction was used outside its thread, task or identity; nothing was stored by this use."""


class MigrationFailed(EchoMarketsError):
    """A migration could not be applied or reverted; its transaction was rolled back."""


class RowsWouldBeLost(EchoMarketsError):
    """An operation would delete or replace rows without permission to do so; nothing was changed."""


class PriceFileError(InvalidInput):
    """A price file has a row that cannot be read; nothing was loaded."""


class StackError(EchoMarketsError):
    """A part of the stack of `make up`, or a server for tests, cannot be started or stopped."""
