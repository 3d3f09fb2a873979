"""The simulated players as users in the database: their ids, names and profiles.

Players are numbered from 0. The id of a player depends only on the number, so a later replay finds the
players of an earlier replay. Decides which players a new replay removes. Newcomers are simulated players who
join after a replay. Plays no session.
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

from core.bulk_load import Progress
from core.errors import UserNotFound
from core.records import User
from core.service import EnhancedDatabaseService
from core.service.argument_checks import MAX_LIMIT
from core.simulation.behaviour import Traits, draw_fraction, draw_traits
from core.simulation.history import PriceHistory
from core.simulation.identifiers import Kind, make_ids

REPLAY_MARK: Final = "replay"
"""The key in a player's preferences for the mark of a replay: a text that identifies the replay."""

FINISHED_MARK: Final = "replay_finished"
"""The key in the preferences of player 0 that is set after all rows of a replay were written."""

MAX_JOINING: Final = 5.0
"""The largest number of newcomers a day.

Without a limit, a game would grow by 3 percent a day if all its players joined in the last month.
"""

_NAMED_PLAYERS: Final = 3
_MONTH: Final = timedelta(days=30)
_JOINING: Final = 0x10D4
_FOUNDED: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""The time at the beginning of each simulated player's id. The ids of real players have later times."""


_ADJECTIVE_WORDS: Final = (
    "amber agile brave bright calm candid clever cosmic crimson curious daring deft eager early "
    "easy fair fleet fresh gentle glad golden grand happy hardy honest humble ideal jolly keen "
    "kind lively loyal lucky mellow merry mighty modest nimble noble patient polite proud quick "
    "quiet rapid ready royal rustic serene sharp silent silver sly smart solid steady subtle sunny "
    "swift tidy vivid warm wise witty"
)
_ANIMAL_WORDS: Final = (
    "badger beaver bison bobcat bull caribou cheetah cobra condor cougar coyote crane dolphin "
    "eagle egret elk falcon ferret finch fox gecko gibbon hare hawk heron hornet ibex ibis iguana "
    "jackal jaguar kestrel koala lemur leopard lion lynx magpie marten moose narwhal ocelot orca "
    "osprey otter owl panda panther pelican penguin puffin puma raven robin salmon seal shark "
    "sparrow stork swan tiger turtle walrus wolf"
)
_ADJECTIVES: Final = _ADJECTIVE_WORDS.split()
_ANIMALS: Final = _ANIMAL_WORDS.split()


@dataclass(frozen=True)
class ReplayPlayers:
    """The players of a replay: their ids and usernames, in the order of their numbers.

    `removed` is the number of players of another replay that were removed. `settled` has the players that
    were created by an earlier, finished run of the same replay; their open quests may have changed after that
    run.
    """

    user_ids: tuple[UUID, ...]
    usernames: tuple[str, ...]
    removed: int = 0
    settled: frozenset[UUID] = frozenset()


def player_ids(numbers: range) -> list[UUID]:
    """Return the ids of the players with these numbers."""
    return make_ids(Kind.USER, seed=0, when=_FOUNDED, keys=np.asarray(numbers, np.int64))


def is_simulated(user_id: UUID) -> bool:
    """Return whether a user is a simulated player: only the ids of simulated players begin with _FOUNDED."""
    return user_id.int >> 80 == int(_FOUNDED.timestamp() * 1000)


def replace_players(
    service: EnhancedDatabaseService,
    traits: Traits,
    *,
    mark: str,
    joined_at: Sequence[datetime],
    progress: Progress,
) -> ReplayPlayers:
    """Create the missing players of a replay, and remove the players of other replays with all their data.

    `mark` is a text that identifies the replay. Players with this mark, also newcomers, are not changed, so
    that the replay can be repeated. Players with another mark are removed, because their scores would not be
    consistent with this replay. `joined_at` has the time at which each player joins.
    """
    ids = player_ids(range(len(traits.strategy)))
    is_empty = not service.search_users("", limit=1)
    found = {} if is_empty else _find_players(service, ids, progress)
    kept = {number: user for number, user in found.items() if user.preferences.get(REPLAY_MARK) == mark}
    removed = [user.id for number, user in found.items() if number not in kept]
    _remove(service, removed, progress)
    names = {
        number: build_username(number) if is_empty else find_free_username(service, number)
        for number in range(len(ids))
        if number not in kept
    }
    service.load_users(
        build_profile(ids[number], names[number], traits.preferences(number), mark, joined_at[number])
        for number in names
    )
    names |= {number: user.username for number, user in kept.items()}
    return ReplayPlayers(
        user_ids=tuple(ids),
        usernames=tuple(names[number] for number in range(len(ids))),
        removed=len(removed),
        settled=_find_settled(kept),
    )


def add_newcomers(service: EnhancedDatabaseService, day: date) -> int:
    """Add new simulated players who join at the beginning of `day`; return their number.

    As many players join as on an average day of the previous month, at most MAX_JOINING. Nobody joins if
    there is no player of a replay, or if players have already joined on this day. Nobody joins if the search
    returns MAX_LIMIT simulated players: then the database may have more players than the search has found.
    """
    midnight = datetime.combine(day, time(0), UTC)
    players = [user for user in service.search_users("", limit=MAX_LIMIT) if REPLAY_MARK in user.preferences]
    joined = Counter(user.created_at for user in players if user.created_at > midnight - _MONTH)
    if not players or len(players) >= MAX_LIMIT or midnight in joined:
        return 0
    chance = min(joined.total() / _MONTH.days, MAX_JOINING)
    joining = int(chance) + (draw_fraction(day, _JOINING) < chance % 1)
    mark = players[0].preferences[REPLAY_MARK]
    numbers = islice(_list_free_numbers(service, len(players)), joining)
    profiles = [_build_newcomer(service, number, mark, midnight) for number in numbers]
    service.load_users(profiles)
    return len(profiles)


def _list_free_numbers(service: EnhancedDatabaseService, first: int) -> Iterator[int]:
    for number, user_id in zip(count(first), _ids_from(first), strict=False):
        try:
            service.get_user_by_id(user_id)
        except UserNotFound:
            yield number


def _build_newcomer(service: EnhancedDatabaseService, number: int, mark: str, midnight: datetime) -> User:
    ids = player_ids(range(number, number + 1))
    traits = draw_traits(midnight.toordinal(), ids)
    return build_profile(ids[0], find_free_username(service, number), traits.preferences(0), mark, midnight)


def _find_settled(kept: dict[int, User]) -> frozenset[UUID]:
    is_finished = 0 in kept and FINISHED_MARK in kept[0].preferences
    return frozenset(user.id for user in kept.values()) if is_finished else frozenset()


def build_profile(
    user_id: UUID, username: str, preferences: dict[str, Any], mark: str, joined_at: datetime
) -> User:
    """Return the user record of a new simulated player; `mark` identifies the replay."""
    return User(
        id=user_id,
        username=username,
        name=build_name(username),
        email=None,
        last_active=joined_at,
        preferences=frozendict({**preferences, REPLAY_MARK: mark}),
        created_at=joined_at,
        updated_at=joined_at,
    )


def mark_finished(service: EnhancedDatabaseService, players: ReplayPlayers) -> None:
    """Store in the preferences of player 0 that all rows of the replay were written."""
    first = service.get_user_by_id(players.user_ids[0])
    if FINISHED_MARK not in first.preferences:
        preferences = frozendict({**first.preferences, FINISHED_MARK: True})
        # a bulk load does not change `updated_at`, which is therefore the same in every run
        service.load_users([msgspec.structs.replace(first, preferences=preferences)])


def _find_players(service: EnhancedDatabaseService, ids: list[UUID], progress: Progress) -> dict[int, User]:
    """Return the existing players by number.

    Looks for the players with these ids, and then for the following numbers up to the first missing player.
    """
    found = {}
    for number, user_id in enumerate(chain(ids, _ids_from(len(ids)))):
        try:
            found[number] = service.get_user_by_id(user_id)
        except UserNotFound:
            if number >= len(ids):
                break
        progress("looking for players", min(number + 1, len(ids)), len(ids))
    return found


def _ids_from(number: int) -> Iterator[UUID]:
    return (player_ids(range(next_, next_ + 1))[0] for next_ in count(number))


def _remove(service: EnhancedDatabaseService, user_ids: list[UUID], progress: Progress) -> None:
    # remove the highest number first: after an interruption, the remaining numbers have no gap
    for done, user_id in enumerate(reversed(user_ids), 1):
        with suppress(UserNotFound):  # another program deleted the player a moment ago
            service.delete_user(user_id)
        progress("removing players of another replay", done, len(user_ids))


def find_free_username(service: EnhancedDatabaseService, number: int) -> str:
    """Return a username that no user has, for the player with this number.

    With the username of an existing user, a bulk load would overwrite that user.
    """
    wanted = build_username(number)
    for username in chain([wanted], (f"{wanted}_{suffix}" for suffix in count(number))):
        try:
            service.get_user_by_username(username)
        except UserNotFound:
            return username
    raise AssertionError("unreachable: the numbers never end")


def build_username(number: int) -> str:
    """Return the username of the player with this number."""
    adjective = _ADJECTIVES[number % len(_ADJECTIVES)]
    row, lap = number // len(_ADJECTIVES), number // (len(_ADJECTIVES) * len(_ANIMALS))
    # both words change with each number: two consecutive players have no word in common
    animal = _ANIMALS[(number + row) % len(_ANIMALS)]
    return f"{adjective}_{animal}" + (f"_{lap + 1}" if lap else "")


def build_name(username: str) -> str:
    """Return the display name for a username: "Amber Badger" for "amber_badger"."""
    return username.replace("_", " ").title()


@dataclass(frozen=True)
class Survey:
    """The users and sessions in a database before a planned replay with `players` simulated players.

    `real_players` is the number of real players, and `names` has some of their usernames. `sessions` has the
    days of live sessions. `repeated` is the number of existing simulated players of the planned replay, and
    `replaced` is the number of simulated players of other replays.
    """

    players: int
    real_players: int
    names: tuple[str, ...]
    sessions: tuple[date, ...]
    replaced: int
    repeated: int

    @property
    def needs_confirmation(self) -> bool:
        """Whether the replay would change a database that has real players or live sessions.

        False if the planned replay was written before, and there are no players of other replays: then the
        replay changes nothing.
        """
        is_repeated = self.repeated > 0 and not self.replaced
        return bool(self.real_players or self.sessions) and not is_repeated

    def __str__(self) -> str:
        found = " and ".join(self._describe_found())
        if self.replaced:
            removes = (
                f"removes {_count(self.replaced, 'simulated player')} of another replay with all that is"
            )
            removes += " theirs, live sessions included" if self.sessions else " theirs"
        else:
            removes = "removes nothing"
        return (
            f"the database has {found} that no seed has made; seeding {removes}, and lets {self.players}"
            " simulated players play beside those who stay; nothing was changed"
        )

    def _describe_found(self) -> Iterator[str]:
        if self.real_players:
            more = ", ..." if self.real_players > len(self.names) else ""
            yield f"{_count(self.real_players, 'player')} ({', '.join(self.names)}{more})"
        if self.sessions:
            first, last = self.sessions[-1], self.sessions[0]
            days = str(first) if first == last else f"{first} to {last}"
            yield f"{_count(len(self.sessions), 'session')} ({days})"


def survey(service: EnhancedDatabaseService, *, players: int, mark: str, history: PriceHistory) -> Survey:
    """Count the users and sessions that exist before a replay is written; `mark` identifies this replay."""
    real_players, replaced, repeated = 0, 0, 0
    replayed = set(history.days)
    names: list[str] = []
    for user in service.stream_users():
        if not is_simulated(user.id):
            real_players += 1
            names += [user.username] if len(names) < _NAMED_PLAYERS else []
        elif user.preferences.get(REPLAY_MARK) == mark:
            repeated += 1
        else:
            replaced += 1
    return Survey(
        players=players,
        real_players=real_players,
        names=tuple(names),
        sessions=tuple(day for day in _list_sessions(service) if day not in replayed),
        replaced=replaced,
        repeated=repeated,
    )


def _list_sessions(service: EnhancedDatabaseService) -> Iterator[date]:
    before = None
    while page := service.list_session_dates(limit=MAX_LIMIT, before=before):
        yield from page
        before = page[-1]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
