"""A small finished game: alice, bob and charlie play three sessions.

Owns the values that tests of the dashboard expect. Charlie and bob have completed the same number of quests;
dave has signed up but has no portfolio and no score.
"""

from datetime import UTC, date, datetime, time
from decimal import Decimal
from uuid import UUID

from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.records import LeaderboardUpdate, Portfolio

SESSIONS = (date(2013, 2, 27), date(2013, 2, 28), date(2013, 3, 1))
CHANGES = {
    "alice": ("120.50", "-40.25", "310.75"),
    "bob": ("-15.00", "22.10", "95.00"),
    "charlie": ("0.00", "5.00", "-210.40"),
}
QUESTS_DONE = {"alice": 5, "bob": 2, "charlie": 2}
STARTING_CASH = Decimal(10_000)


def open_database(url: str) -> EnhancedDatabaseService:
    """Open a service on a database, without Redis."""
    return open_service(Settings(database_url=SecretStr(url), enable_redis_cache=False))


def play_game(service: EnhancedDatabaseService) -> None:
    """Write the players, portfolios, leaderboard entries and one quest of the game."""
    ids = {
        name: service.create_user(username=name, name=f"{name.capitalize()} Example").id for name in CHANGES
    }
    service.create_user(username="dave")
    for place, session in enumerate(SESSIONS):
        service.load_portfolios(
            build_portfolio(user_id, session, Decimal(CHANGES[name][place])) for name, user_id in ids.items()
        )
        _write_leaderboards(service, ids, place)
    quest = service.create_quest(
        ids["alice"],
        type="TRADES",
        title="Make 20 trades",
        target_value=Decimal(20),
        reward_type="cash",
        reward_value=Decimal(250),
    )
    service.update_quest_progress(quest.id, Decimal(13))


def build_portfolio(user_id: UUID, session: date, change: Decimal) -> Portfolio:
    """Return a portfolio at the end of a session; `change` is the day's gain, and 2,500 is in cash."""
    closed_at = datetime.combine(session, time(21), UTC)
    return Portfolio(
        id=UUID(int=user_id.int ^ session.toordinal()),
        user_id=user_id,
        session_date=session,
        starting_cash=STARTING_CASH,
        current_cash=Decimal(2_500),
        total_value=STARTING_CASH + change,
        day_change=change,
        day_change_percent=change / 100,
        created_at=closed_at,
        updated_at=closed_at,
    )


def _write_leaderboards(service: EnhancedDatabaseService, ids: dict[str, UUID], place: int) -> None:
    changes = {name: Decimal(CHANGES[name][place]) for name in ids}
    leaderboards = {
        "daily_returns": {name: change / 100 for name, change in changes.items()},
        "total_value": {name: STARTING_CASH + change for name, change in changes.items()},
        "quests_completed": {name: Decimal(QUESTS_DONE[name]) for name in ids},
    }
    for category, scores in leaderboards.items():
        updates = [LeaderboardUpdate(ids[name], score) for name, score in scores.items()]
        service.batch_update_leaderboard(category, updates, SESSIONS[place])
