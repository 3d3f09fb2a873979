"""The simulated players in the database.

Owns who they are: a player's id follows from the place in the roster alone, so that
a later replay finds the players of an earlier one. Never plays.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, count
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
import numpy as np
from frozendict import frozendict

from core.errors import UserNotFound
from core.records import User
from core.service import EnhancedDatabaseService
from core.simulation.identifiers import Kind, make_ids
from core.simulation.progress import Progress
from core.simulation.strategies import Traits
from core.simulation.usernames import name_of, username_of

REPLAY_MARK: Final = "replay"
"""The preference that says which replay a player was made for."""

FINISHED_MARK: Final = "replay_finished"
"""The preference of the first player that says that this replay was written to its end."""

_FOUNDED: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""The time in every player's id; fixed, so that ids do not depend on what is replayed."""


class ReplayName(NamedTuple):
    """Which replay it is: `mark` is different when anything is that its rows follow from."""

    mark: str
    begins: datetime
    ends: datetime


@dataclass(frozen=True)
class Roster:
    """The players of a replay by place, and how many of another replay were removed.

    `settled` players were there already after a replay that was finished: the quests that
    it left open may have moved on since.
    """

    user_ids: tuple[UUID, ...]
    usernames: tuple[str, ...]
    removed: int = 0
    settled: frozenset[UUID] = frozenset()


def player_ids(numbers: range) -> list[UUID]:
    """Return the ids of the players with these places."""
    return make_ids(Kind.USER, seed=0, when=_FOUNDED, numbers=np.asarray(numbers, np.int64))


def enroll(
    service: EnhancedDatabaseService,
    traits: Traits,
    *,
    replay: ReplayName,
    progress: Progress,
) -> Roster:
    """Create the players of a replay that are not there, and remove those of another one.

    Its own players stay as they are, so that it can be repeated;
    players of another one go with all that is theirs, because what they won there would
    not add up with this one.
    """
    ids = player_ids(range(len(traits.strategy)))
    is_empty = not service.search_users("", limit=1)
    found = {} if is_empty else _find_players(service, ids, progress)
    kept = {
        place: user
        for place, user in found.items()
        if place < len(ids) and user.preferences.get(REPLAY_MARK) == replay.mark
    }
    removed = [user.id for place, user in found.items() if place not in kept]
    _remove(service, removed, progress)
    names = {
        place: username_of(place) if is_empty else _free_username(service, place)
        for place in range(len(ids))
        if place not in kept
    }
    service.load_users(
        _profile(ids[place], names[place], traits.preferences(place), replay) for place in names
    )
    names |= {place: user.username for place, user in kept.items()}
    return Roster(
        user_ids=tuple(ids),
        usernames=tuple(names[place] for place in range(len(ids))),
        removed=len(removed),
        settled=_find_settled(kept),
    )


def _find_settled(kept: dict[int, User]) -> frozenset[UUID]:
    is_finished = 0 in kept and FINISHED_MARK in kept[0].preferences
    return frozenset(user.id for user in kept.values()) if is_finished else frozenset()


def _profile(user_id: UUID, username: str, preferences: dict[str, Any], replay: ReplayName) -> User:
    return User(
        id=user_id,
        username=username,
        name=name_of(username),
        email=None,
        last_active=replay.ends,
        preferences=frozendict({**preferences, REPLAY_MARK: replay.mark}),
        created_at=replay.begins,
        updated_at=replay.begins,
    )


def mark_finished(service: EnhancedDatabaseService, roster: Roster) -> None:
    """Remember that a replay was written to its end."""
    first = service.get_user_by_id(roster.user_ids[0])
    if FINISHED_MARK not in first.preferences:
        preferences = frozendict({**first.preferences, FINISHED_MARK: True})
        # a bulk load keeps the time of the profile, which is the same in every run
        service.load_users([msgspec.structs.replace(first, preferences=preferences)])


def _find_players(service: EnhancedDatabaseService, ids: list[UUID], progress: Progress) -> dict[int, User]:
    """Return the players that exist by place: of these, and all that follow without a gap."""
    found = {}
    for place, user_id in enumerate(chain(ids, _ids_from(len(ids)))):
        try:
            found[place] = service.get_user_by_id(user_id)
        except UserNotFound:
            if place >= len(ids):
                break
        progress("looking for players", min(place + 1, len(ids)), len(ids))
    return found


def _ids_from(place: int) -> Iterator[UUID]:
    return (player_ids(range(next_, next_ + 1))[0] for next_ in count(place))


def _remove(service: EnhancedDatabaseService, user_ids: list[UUID], progress: Progress) -> None:
    # the last one first: what an interruption leaves still has no gap
    for done, user_id in enumerate(reversed(user_ids), 1):
        with suppress(UserNotFound):  # someone else was faster
            service.delete_user(user_id)
        progress("removing players of another replay", done, len(user_ids))


def _free_username(service: EnhancedDatabaseService, place: int) -> str:
    """Return a username that no other user has; a bulk load would take over that user."""
    wanted = username_of(place)
    for username in chain([wanted], (f"{wanted}_{number}" for number in count(place))):
        try:
            service.get_user_by_username(username)
        except UserNotFound:
            return username
    raise AssertionError("unreachable: the numbers never end")
