"""The part of the self-test that reads in bulk: a page and a stream of every list.

Owns what each call must answer about the rows of the throw-away player; writes nothing.
"""

from collections.abc import Callable
from datetime import date
from itertools import islice
from uuid import UUID

from msgspec.structs import replace

from core.records import User
from core.service import EnhancedDatabaseService

Call = Callable[[str, Callable[[], object], Callable[[object], bool]], object]


def check_bulk_reads(
    call: Call, service: EnhancedDatabaseService, user: User, *, category: str, session: date, symbol: str
) -> None:
    """Make every call that reads in bulk; the player must have a row in each list."""
    # the player is the first to follow this one
    before = replace(user, id=UUID(int=user.id.int - 1))
    [quest] = service.get_user_quests(user.id)
    quest_before = replace(quest, id=UUID(int=quest.id.int - 1))

    def holds(answer: object) -> bool:
        return answer is True

    for name, method in {
        "list_users": lambda: service.list_users(limit=1, after=before)[0].id == user.id,
        "stream_users": lambda: next(service.stream_users(after=before)).id == user.id,
        "list_portfolios": lambda: user.id in {p.user_id for p in service.list_portfolios(session)},
        "stream_portfolios": lambda: user.id in {p.user_id for p in service.stream_portfolios(session)},
        "stream_positions": lambda: user.id in {p.user_id for p in service.stream_positions(session)},
        "stream_trades": lambda: user.id in {t.user_id for t in service.stream_trades(session)},
        "list_market_ticks": lambda: {t.symbol for t in service.list_market_ticks(symbol)} == {symbol},
        "stream_market_ticks": lambda: {t.symbol for t in service.stream_market_ticks(symbol)} == {symbol},
        "list_leaderboard_entries": lambda: (
            user.id in {e.user_id for e in service.list_leaderboard_entries(category, session)}
        ),
        "list_quests": lambda: service.list_quests(limit=1, after=quest_before) == (quest,),
        "stream_quests": lambda: next(service.stream_quests(after=quest_before)) == quest,
        "stream_market_events": lambda: len(list(islice(service.stream_market_events(), 1))) == 1,
        "stream_audit_events": lambda: len(list(islice(service.stream_audit_events(), 1))) <= 1,
    }.items():
        call(name, method, holds)
