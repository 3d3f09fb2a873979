"""The part of the self-test that reads the throw-away player's board in every way.

Owns what each call of the standings must answer; writes nothing.
"""

from collections.abc import Callable
from datetime import date

from core.records import User
from core.service import EnhancedDatabaseService

Call = Callable[[str, Callable[[], object], Callable[[object], bool]], object]


def check_standings(
    call: Call, service: EnhancedDatabaseService, user: User, *, category: str, session: date
) -> None:
    """Make every call of the standings; the player must be on the board."""

    def has_user(answer: object) -> bool:
        return isinstance(answer, list) and user.id in answer

    def holds(answer: object) -> bool:
        return answer is True

    call("count_leaderboard", lambda: service.count_leaderboard(category, session) >= 1, holds)
    for name, method in {
        "list_leaderboard": lambda: service.list_leaderboard(category, session, prefix=user.username),
        "stream_leaderboard": lambda: service.stream_leaderboard(category, session),
        "list_player_scores": lambda: service.list_player_scores([user.id], category, [session], ranked=True),
    }.items():
        call(name, lambda method=method: [row.user_id for row in method()], has_user)  # type: ignore[misc]  # bound now
    call(
        "find_leaderboard_summary",
        lambda: getattr(service.find_leaderboard_summary(category, session), "players", 0) >= 1,
        holds,
    )
    # which players it has may be some minutes old, and of another run
    call(
        "get_period_leaderboard",
        lambda: service.get_period_leaderboard(category, session, sessions=1).days == (session,),
        holds,
    )
    call("list_leaderboard_dates", lambda: session in service.list_leaderboard_dates(category), holds)
    call(
        "get_market_returns",
        lambda: all(found.day == session for found in service.get_market_returns(session, session)),
        holds,
    )
