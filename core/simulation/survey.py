"""What a seed would replace in a database, and what is there that no seed has made.

Owns looking and the words for it; writes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Final

from core.service import EnhancedDatabaseService
from core.simulation.history import History
from core.simulation.players import REPLAY_MARK, is_simulated

NAMED_PLAYERS: Final = 3
SESSIONS_READ: Final = 1_000


@dataclass(frozen=True)
class Survey:
    """A database before a seed of `players`.

    `people` are players that no seed has made, of whom `names` are the first. `sessions` are days that
    were played and are not replayed: live ones. `replaced` simulated players belong to another replay
    than this one, `repeated` ones to this one.
    """

    players: int
    people: int
    names: tuple[str, ...]
    sessions: tuple[date, ...]
    replaced: int
    repeated: int

    @property
    def is_of_people(self) -> bool:
        """Say whether somebody has played here whose data the seed replaces or mixes with its own.

        Repeating a replay does neither.
        """
        is_repeated = self.repeated > 0 and not self.replaced
        return bool(self.people or self.sessions) and not is_repeated

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
        if self.people:
            more = ", ..." if self.people > len(self.names) else ""
            yield f"{_count(self.people, 'player')} ({', '.join(self.names)}{more})"
        if self.sessions:
            first, last = self.sessions[-1], self.sessions[0]
            days = str(first) if first == last else f"{first} to {last}"
            yield f"{_count(len(self.sessions), 'session')} ({days})"


def survey(service: EnhancedDatabaseService, *, players: int, mark: str, history: History) -> Survey:
    """Look at every user and session; `mark` is that of the replay which would be seeded."""
    people, replaced, repeated = 0, 0, 0
    replayed = set(history.days)
    names: list[str] = []
    for user in service.stream_users():
        if not is_simulated(user.id):
            people += 1
            names += [user.username] if len(names) < NAMED_PLAYERS else []
        elif user.preferences.get(REPLAY_MARK) == mark:
            repeated += 1
        else:
            replaced += 1
    return Survey(
        players=players,
        people=people,
        names=tuple(names),
        sessions=tuple(day for day in _list_sessions(service) if day not in replayed),
        replaced=replaced,
        repeated=repeated,
    )


def _list_sessions(service: EnhancedDatabaseService) -> Iterator[date]:
    """Yield every session, newest first."""
    before = None
    while page := service.list_session_dates(limit=SESSIONS_READ, before=before):
        yield from page
        before = page[-1]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
