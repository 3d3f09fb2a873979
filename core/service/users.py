"""Users: profiles, search, last activity."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from core.cache import Cached
from core.cache.kinds import USER, USERNAMES_VERSION_KEY, format_id
from core.encryption import normalise_email
from core.errors import ConstraintViolated, InvalidInput, UserNotFound
from core.queries import users as queries
from core.records import User
from core.records.game import StoredUser
from core.service.argument_checks import (
    MAX_NAME,
    check_after,
    check_document,
    check_email,
    check_id,
    check_limit,
    check_prefix,
    check_text,
    check_time,
    check_time_to_write,
    check_username,
    find_end_of_tomorrow,
    find_id,
    show,
)
from core.service.paging import chunked, stream_pages
from core.service.portfolios import list_portfolio_keys
from core.service.quests import quests_key
from core.service.writes import ServiceBase, new_id


def user_key(user_id: UUID) -> str:
    """Return the cache key of the profile of a user."""
    return f"user:{format_id(user_id)}"


_PROFILE = Cached(USER, StoredUser, user_key)
# A change of a user does not invalidate the cached number of active players: it expires.
_ACTIVE_PLAYERS = Cached(
    USER, int, lambda since: f"user:active:{since.isoformat()}", ttl_seconds=60, time_dependent=True
)
CHUNK_ROWS = 5_000

_CHECKS: dict[str, Callable[[Any], Any]] = {
    "username": check_username,
    "name": lambda value: check_text(value, "name", max_length=MAX_NAME, required=False),
    "email": lambda value: None if value is None else check_email(value),
    "preferences": lambda value: check_document(value, "preferences"),
}


class Users(ServiceBase):
    """Calls of the service about users."""

    def get_user_by_id(self, user_id: UUID | str) -> User:
        """Return the user with this id.

        The answer is at most 300 s old, and never older than the last change through the service. Raises
        `UserNotFound`, `InvalidInput`.
        """
        checked = check_id(user_id, "user_id")
        user = self._cache.get_or_load(
            _PROFILE, lambda user_id: self._read(queries.find_user, user_id), checked
        )
        if user is None:
            raise _no_user(checked)
        return self._emails.decrypt(user)

    def _warm_users(self, operation: str, user_ids: Sequence[UUID]) -> None:
        def load(missing: Sequence[UUID]) -> dict[UUID, StoredUser]:
            found = self._database.read(operation, queries.find_users, missing)
            return {user.id: user for user in found}

        self._cache.get_or_load_many(_PROFILE, {user_key(user_id): user_id for user_id in user_ids}, load)

    def get_user_by_username(self, username: str) -> User:
        """Return the user with exactly this username (case-sensitive), uncached.

        Raises `UserNotFound`, `InvalidInput`.
        """
        checked = check_username(username)
        user = self._read(queries.find_user_by_username, checked)
        if user is None:
            raise UserNotFound(f"no user is called {checked!r}; search_users finds similar names")
        return self._emails.decrypt(user)

    def search_users(self, prefix: str, *, limit: int = 20) -> tuple[User, ...]:
        """Return up to `limit` users whose username or name starts with `prefix`, uncached.

        The search is case-insensitive, and the result is ordered by username in lower case. If more than
        `limit` users match, the call reads two lists: the first `limit` users by username, and the first
        `limit` users by name. It merges both lists and returns the first `limit` users by username. An empty
        prefix matches every user. Raises `InvalidInput`.
        """
        checked = check_prefix(prefix, max_length=MAX_NAME)
        return self._emails.decrypt_all(self._read(queries.search_users, checked, check_limit(limit)))

    def list_users_by_email(self, email: str, *, limit: int = 100) -> tuple[User, ...]:
        """Return up to `limit` users with this e-mail address, in the order of their ids, uncached.

        The search is case-insensitive. Raises `InvalidInput`, and `EncryptionKeyMissing`.
        """
        wanted, count = check_email(email), check_limit(limit)
        found = self._read(queries.list_users_by_email, self._emails.cipher.list_indexes(wanted), count)
        # Compare the addresses too: someone could have copied `email_index` from the row of another user.
        return tuple(
            user
            for user in self._emails.decrypt_all(found)
            if user.email and normalise_email(user.email) == normalise_email(wanted)
        )

    def list_users(self, *, limit: int = 100, after: User | None = None) -> tuple[User, ...]:
        """Return up to `limit` users in the order of their ids, uncached.

        The ids that `create_user` makes are in the order of creation. `after` is the last user of the
        previous page. Raises `InvalidInput`.
        """
        last = check_after(after, User)
        return self._emails.decrypt_all(self._read(queries.list_after, find_id(last), check_limit(limit)))

    def stream_users(self, *, after: User | None = None) -> Iterator[User]:
        """Yield all users in the order of their ids.

        Reads batches of 2,000 users. Each batch is one statement with its own snapshot, and no connection is
        held between batches. `after` is the last user already read. Raises `InvalidInput`.
        """

        def load(last: User | None, limit: int) -> tuple[User, ...]:
            return self._emails.decrypt_all(self._read(queries.list_after, find_id(last), limit))

        return stream_pages(load, check_after(after, User))

    def count_active_players(self, since: datetime) -> int:
        """Return how many players have a `last_active` of `since` or later.

        The answer is at most 60 s old. Raises `InvalidInput`.
        """

        def load(since: datetime) -> int:
            return self._read(queries.count_active, since)

        return self._cache.get_or_load(_ACTIVE_PLAYERS, load, check_time(since, "since"))

    def create_user(
        self,
        *,
        username: str,
        name: str | None = None,
        email: str | None = None,
        preferences: dict[str, Any] | None = None,
    ) -> User:
        """Create a user and return it.

        Its id is a time-ordered UUID (version 7). Raises `InvalidInput`, also if the username is taken, and
        `EncryptionKeyMissing` if an e-mail address is given but no key is set.
        """
        given = {"username": username, "name": name, "email": email, "preferences": preferences}
        values = {field: _CHECKS[field](value) for field, value in given.items()}
        user_id = new_id()
        keys = [user_key(user_id)]
        stored = self._emails.encrypt_changes(user_id, values)
        try:
            user = self._write_one(keys, queries.insert_user, {"id": user_id, **stored})
        except ConstraintViolated as error:
            raise _taken(error, username) from error
        return self._emails.decrypt(user)

    def update_user_profile(self, user_id: UUID | str, **changes: Any) -> User:
        """Change username, name, email or preferences of a user, and return the user.

        Fields that are not given stay unchanged. None removes a name or e-mail address. New preferences
        replace all old ones. Cached leaderboards show a new username immediately. Raises `UserNotFound`,
        `InvalidInput`, also if the username is taken, and `EncryptionKeyMissing` if an e-mail address is
        given but no key is set.
        """
        checked = check_id(user_id, "user_id")
        unknown = sorted(set(changes) - set(_CHECKS))
        if unknown or not changes:
            raise InvalidInput(
                f"cannot change {', '.join(unknown) or 'nothing'}; give one of {', '.join(_CHECKS)}"
            )
        values = {field: _CHECKS[field](value) for field, value in changes.items()}
        stored = self._emails.encrypt_changes(checked, values)
        try:
            # Not `_write_one`, which would invalidate the profile even if the username is taken.
            with self._write() as (database, changed):
                changed.invalidate(user_key(checked))
                if "username" in values:
                    changed.invalidate(USERNAMES_VERSION_KEY)
                user = queries.update_user(database, checked, stored)
        except ConstraintViolated as error:
            raise _taken(error, changes.get("username")) from error
        if user is None:
            raise _no_user(checked)
        return self._emails.decrypt(user)

    def touch_last_active(self, user_id: UUID | str) -> None:
        """Set `last_active` of a user to the current time. Raises `UserNotFound`, `InvalidInput`."""
        checked = check_id(user_id, "user_id")
        keys = [user_key(checked)]
        if not self._write_one(keys, queries.touch_user, checked, self._clock()):
            raise _no_user(checked)

    def batch_touch_last_active(self, seen: Mapping[UUID | str, datetime]) -> int:
        """Set `last_active` of many users to the given times. Return how many users changed.

        Times must be before the end of tomorrow (UTC). A stored time is never replaced by an earlier time,
        and users that do not exist are skipped. Runs one statement per 5,000 users, in one transaction.
        Raises `InvalidInput`.
        """
        if not isinstance(seen, Mapping):
            raise InvalidInput(f"seen is {show(seen)}; give a mapping of ids to times")
        end = find_end_of_tomorrow(self._clock())
        checked = {check_id(key, "seen"): check_time_to_write(at, "seen", end) for key, at in seen.items()}

        def write() -> int:
            changed: set[UUID] = set()
            with self._write() as (database, changes):
                # every batch has the same order, so that two batches do not deadlock
                for chunk in chunked(sorted(checked.items()), CHUNK_ROWS):
                    changed |= queries.touch_users(database, dict(chunk))
                changes.invalidate(*map(user_key, changed))
            return len(changed)

        return self._retry_conflicts(write)

    def delete_user(self, user_id: UUID | str) -> None:
        """Delete a user with its portfolios, positions, trades, quests and leaderboard entries.

        Cached leaderboards omit the user immediately. Raises `UserNotFound`, `InvalidInput`.
        """
        checked = check_id(user_id, "user_id")

        def write() -> None:
            with self._write() as (database, changes):
                changes.invalidate(user_key(checked), USERNAMES_VERSION_KEY)
                changes.invalidate(quests_key(checked))
                # lock before listing the keys: the key of a portfolio created in between would be missing
                if not queries.lock_user(database, checked):
                    raise _no_user(checked)
                changes.invalidate(*list_portfolio_keys(database, checked))
                queries.delete_user(database, checked)

        # A deadlock is possible: this call locks the row of the user first, and then the user's other rows.
        # Other writes lock in the reverse order.
        self._retry_conflicts(write)


def _no_user(user_id: UUID) -> UserNotFound:
    return UserNotFound(f"no user has the id {user_id}; create_user makes one")


def _taken(error: ConstraintViolated, username: object) -> Exception:
    if "username" in error.key or "username" in (error.constraint or ""):
        return InvalidInput(f"username is {username!r}, which is taken; choose another")
    return error
