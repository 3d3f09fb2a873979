"""The identity of a unit of work: the role, player and actor for which its statements run.

Owns the identity of the current thread or task, and the statements that tell the server the identity. They
are sent in the same message as the first statement of a transaction, and they set parameters of this
transaction. Parameters of the session would stay after the transaction, and the next client of the connection
would get this identity too. Without an identity nothing is sent.

The server reads the player with `nullif(current_setting('app.user_id', true), '')::uuid`. The `nullif` is
needed: after a transaction that set the parameter, its value in this session is an empty string, not NULL.
"""

from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from uuid import UUID

from core.database.session_settings import PREFIX_END, quote_text

# From this server version on, the identity is set with SET: it takes a third of the time of `set_config()`.
# In older versions pg_stat_statements makes one entry for each value of a SET. These entries would evict all
# others.
MIN_VERSION_FOR_SET = 180_000


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The identity that is sent to the database. An attribute that is None is not sent.

    `role` is a database role; its privileges and row policies apply. `user_id` is the player whose rows the
    policies show. The audit log records `actor` and `request_id`.
    """

    role: str | None = None
    user_id: UUID | None = None
    actor: str | None = None
    request_id: str | None = None

    def get_prefix(self, server_version: int) -> str:
        """Return the statements that set the identity. They precede the first statement of a transaction."""
        return self._set_prefix if server_version >= MIN_VERSION_FOR_SET else self._set_config_prefix

    @cached_property
    def _set_prefix(self) -> str:
        settings = (f"SET LOCAL {name} = {value}; " for name, value in self._settings.items())
        return f"{self._role}{''.join(settings)}{PREFIX_END}"

    @cached_property
    def _set_config_prefix(self) -> str:
        settings = ", ".join(f"set_config('{name}', {value}, true)" for name, value in self._settings.items())
        return f"{self._role}{f'SELECT {settings}; ' if settings else ''}{PREFIX_END}"

    @property
    def _role(self) -> str:
        return "" if self.role is None else f'SET LOCAL ROLE "{self.role}"; '

    @property
    def _settings(self) -> dict[str, str]:
        given = {"app.user_id": self.user_id, "app.actor": self.actor, "app.request_id": self.request_id}
        return {name: quote_text(str(value)) for name, value in given.items() if value is not None}


_PRESENT: ContextVar[Identity | None] = ContextVar("identity", default=None)

find_identity = _PRESENT.get
"""Return the identity of the current thread or task, or None."""
change_identity = _PRESENT.set
"""Set the identity like `acting_as`, but faster. Pass the result to `restore_identity`."""
restore_identity = _PRESENT.reset


class acting_as:  # noqa: N801  # used like a function; a generator would take several times as long
    """Give an identity to the units of work that begin in the block. In nested blocks the innermost counts.

    A thread that is started in the block does not inherit the identity. A transaction keeps the identity with
    which it began: a call inside the transaction with another identity raises `TransactionMisused`.
    """

    __slots__ = ("_before", "_identity")

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def __enter__(self) -> Identity:
        self._before: Token[Identity | None] = _PRESENT.set(self._identity)
        return self._identity

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _PRESENT.reset(self._before)
