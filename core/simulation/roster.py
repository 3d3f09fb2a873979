"""The simulated players in the database.

Owns who they are: a player's id follows from the place in the roster alone, so that
a later replay finds the players of an earlier one. Never plays.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import chain, count, islice
from typing import Any, Final
from uuid import UUID

import msgspec
import numpy as np
from frozendict import frozendict

from core.errors import UserNotFound
from core.records import User
from core.service import EnhancedDatabaseService
from core.simulation.attendance import draw_fraction
from core.simulation.identifiers import Kind, make_ids
from core.simulation.progress import Progress
from core.simulation.strategies import Traits, draw_traits
from core.simulation.usernames import name_of, username_of

REPLAY_MARK: Final = "replay"
"""The preference that says which replay a player was made for."""

FINISHED_MARK: Final = "replay_finished"
"""The preference of the first player that says that this replay was written to its end."""

MOST_PLAYERS: Final = 1_000
"""What one search returns; a larger game gets no new players while it runs live."""

MOST_JOINING: Final = 5.0
"""New players a day at most, so that a game that was seeded yesterday does not double every day."""

_MONTH: Final = timedelta(days=30)
_JOINING: Final = 0x10D4
_FOUNDED: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""The time in every player's id; fixed, so that ids do not depend on what is replayed."""


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


def is_simulated(user_id: UUID) -> bool:
    """Say whether an id is that of a simulated player: it begins with a time when nobody played."""
    return user_id.int >> 80 == int(_FOUNDED.timestamp() * 1000)


def enroll(
    service: EnhancedDatabaseService,
    traits: Traits,
    *,
    mark: str,
    joined_at: Sequence[datetime],
    progress: Progress,
) -> Roster:
    """Create the players of a replay that are not there, and remove those of another one.

    `mark` is different when anything is that the rows of a replay follow from. Its own players
    stay as they are, so that it can be repeated, and so do those who have joined the game since;
    players of another one go with all that is theirs, because what they won there would
    not add up with this one.
    """
    ids = player_ids(range(len(traits.strategy)))
    is_empty = not service.search_users("", limit=1)
    found = {} if is_empty else _find_players(service, ids, progress)
    kept = {place: user for place, user in found.items() if user.preferences.get(REPLAY_MARK) == mark}
    removed = [user.id for place, user in found.items() if place not in kept]
    _remove(service, removed, progress)
    names = {
        place: username_of(place) if is_empty else find_free_username(service, place)
        for place in range(len(ids))
        if place not in kept
    }
    service.load_users(
        build_profile(ids[place], names[place], traits.preferences(place), mark, joined_at[place])
        for place in names
    )
    names |= {place: user.username for place, user in kept.items()}
    return Roster(
        user_ids=tuple(ids),
        usernames=tuple(names[place] for place in range(len(ids))),
        removed=len(removed),
        settled=_find_settled(kept),
    )


def join_game(service: EnhancedDatabaseService, day: date) -> int:
    """Let new players join at the beginning of a day, as often as in the month before it; return how many.

    Only where a replay has players. Called again for the same day it adds nobody.
    """
    midnight = datetime.combine(day, time(0), UTC)
    players = [
        user for user in service.search_users("", limit=MOST_PLAYERS) if REPLAY_MARK in user.preferences
    ]
    joined = Counter(user.created_at for user in players if user.created_at > midnight - _MONTH)
    if not players or len(players) >= MOST_PLAYERS or midnight in joined:
        return 0
    chance = min(joined.total() / _MONTH.days, MOST_JOINING)
    joining = int(chance) + (draw_fraction(day, _JOINING) < chance % 1)
    mark = players[0].preferences[REPLAY_MARK]
    places = islice(_free_places(service, len(players)), joining)
    profiles = [_newcomer(service, place, mark, midnight) for place in places]
    service.load_users(profiles)
    return len(profiles)


def _free_places(service: EnhancedDatabaseService, first: int) -> Iterator[int]:
    for place, user_id in zip(count(first), _ids_from(first), strict=False):
        try:
            service.get_user_by_id(user_id)
        except UserNotFound:
            yield place


def _newcomer(service: EnhancedDatabaseService, place: int, mark: str, midnight: datetime) -> User:
    ids = player_ids(range(place, place + 1))
    traits = draw_traits(midnight.toordinal(), ids)
    return build_profile(ids[0], find_free_username(service, place), traits.preferences(0), mark, midnight)


def _find_settled(kept: dict[int, User]) -> frozenset[UUID]:
    is_finished = 0 in kept and FINISHED_MARK in kept[0].preferences
    return frozenset(user.id for user in kept.values()) if is_finished else frozenset()


def build_profile(
    user_id: UUID, username: str, preferences: dict[str, Any], mark: str, joined_at: datetime
) -> User:
    """Return a new simulated player of a replay."""
    return User(
        id=user_id,
        username=username,
        name=name_of(username),
        email=None,
        last_active=joined_at,
        preferences=frozendict({**preferences, REPLAY_MARK: mark}),
        created_at=joined_at,
        updated_at=joined_at,
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


def find_free_username(service: EnhancedDatabaseService, place: int) -> str:
    """Return a username that no other user has; a bulk load would take over that user."""
    wanted = username_of(place)
    for username in chain([wanted], (f"{wanted}_{number}" for number in count(place))):
        try:
            service.get_user_by_username(username)
        except UserNotFound:
            return username
    raise AssertionError("unreachable: the numbers never end")
