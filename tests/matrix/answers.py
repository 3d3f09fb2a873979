"""A game whose answers can be compared between servers.

Owns the calls and the form in which answers are equal: ids are numbered by first appearance,
times of the server's own clock are `now`. Whatever a server's zone, locale or pooler changes
would show: times near midnight and around a change of clocks, names of several alphabets, ties,
bulk loads, rolled back transactions.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from frozendict import frozendict

from core import EnhancedDatabaseService
from core.errors import EchoMarketsError, InvalidInput
from core.records import (
    LeaderboardUpdate,
    MarketEvent,
    PortfolioUpdate,
    Position,
    Quest,
    Tick,
    Trade,
    User,
)

# In most zones another day than in UTC.
NOW = datetime(2026, 3, 11, 0, 30, tzinfo=UTC)
DAYS = tuple(date(2026, 3, day) for day in (9, 10, 11))
BOARD = "daily_returns"
# What these find depends on which letters the locale of a database has in two cases.
FOLDED = ("οδ", "σί", "ΟΔ", "ος", "i", "İ", "ÄRGER")
NAMES = ("alice", "Bob", "b_b%b", "ΟΔΟΣ", "ΣΊΣΥΦΟΣ", "İstanbul", "Ärger", "zoë", "O'Brien\\", "10-4")
TRICKY = "\\'; -- \\\\'' \\n E'x' %s %% _"
TITLE = "naïve “quotes”, \\ and 日本"


class Answers:
    """What each call answered, by its name; `ignores_zone` leaves the zone of times out."""

    def __init__(self, *, ignores_zone: bool = False) -> None:
        self._ignores_zone = ignores_zone
        self.found: dict[str, Any] = {}
        self._ids: dict[UUID, str] = {}

    def note(self, name: str, call: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
        """Make a call and keep its answer, or its error; return the answer."""
        try:
            answer = call(*arguments, **options)
        except EchoMarketsError as error:
            answer = None
            self.found[name] = type(error).__name__
        else:
            self.found[name] = self._form(answer)
        return answer

    def _form_time(self, value: datetime) -> str:
        is_now = abs(datetime.now(UTC) - value) < timedelta(hours=1)
        instant = "now" if is_now else value.astimezone(UTC).isoformat()
        return instant if self._ignores_zone else f"{instant} {value.tzinfo}"

    def _form(self, value: Any) -> Any:
        if isinstance(value, UUID):
            return self._ids.setdefault(value, f"id {len(self._ids)}")
        if isinstance(value, datetime):
            return self._form_time(value)
        if isinstance(value, msgspec.Struct):
            return {name: self._form(item) for name, item in msgspec.structs.asdict(value).items()}
        if isinstance(value, Mapping):
            return {str(key): self._form(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return [self._form(item) for item in value]
        return repr(value)


def play(service: EnhancedDatabaseService, *, ignores_zone: bool = False) -> dict[str, Any]:
    """Write and read a game; return every answer."""
    service._clock = lambda: NOW
    answers = Answers(ignores_zone=ignores_zone)
    ids = _play_users(service, answers)
    _play_portfolios(service, answers, ids)
    _play_boards(service, answers, ids)
    _play_market(service, answers)
    _play_quests(service, answers, ids)
    _play_events(service, answers)
    _play_rest(service, answers, ids)
    return answers.found


def _play_users(service: EnhancedDatabaseService, answers: Answers) -> dict[str, UUID]:
    users = [
        answers.note(f"create_user {name}", service.create_user, username=name, name=name) for name in NAMES
    ]
    ids = {user.username: user.id for user in users}
    answers.note("touch", lambda: service.touch_last_active(ids["alice"]))
    answers.note(
        "update", lambda: service.update_user_profile(ids["zoë"], email="z@example.com", name="Zoë % _")
    )
    loaded = [
        User(
            UUID(int=n),
            f"load-{n:03}",
            TITLE,
            f"{n}@example.com",
            NOW,
            frozendict({"n": n, "text": "\t\n\\"}),
            NOW,
            NOW,
        )
        for n in range(1, 40)
    ]
    answers.note("load_users", lambda: service.load_users([*loaded, *loaded]))
    for text in (*NAMES, *FOLDED, "a", "B", "%", "b_", "load-0", "nobody"):
        answers.note(f"search_users {text}", service.search_users, text, limit=5)
        answers.note(f"by name {text}", service.get_user_by_username, text)
    answers.note("by e-mail", service.list_users_by_email, "Z@example.com")
    answers.note("keys", service.list_encryption_keys)
    answers.note("users", lambda: [user.username for user in service.list_users(limit=60)])
    answers.note("all users", lambda: sum(1 for _ in service.stream_users()))
    return ids


def _play_portfolios(service: EnhancedDatabaseService, answers: Answers, ids: dict[str, UUID]) -> None:
    for day in DAYS:
        for name in NAMES[:4]:
            answers.note(f"open {name} {day}", service.get_current_portfolio, ids[name], day)
    updates = [
        PortfolioUpdate(ids[name], day, Decimal(10_000 + 100 * n), Decimal(n), None if n % 2 else Decimal(7))
        for day in DAYS
        for n, name in enumerate(NAMES)
    ]
    result = service.batch_update_portfolios(updates)
    answers.note("batch_update_portfolios", lambda: (result.updated, len(result.missing)))
    answers.note(
        "update_portfolio_value",
        lambda: service.update_portfolio_value(ids["alice"], DAYS[2], Decimal("9999.99"), Decimal("-1.01")),
    )
    history = answers.note("history", lambda: service.get_portfolio_history(ids["alice"]))
    answers.note("load_portfolios", lambda: service.load_portfolios(history))
    answers.note("current", lambda: service.get_current_portfolio(ids["alice"]))
    answers.note("find", lambda: service.find_portfolio(ids["Bob"], DAYS[0] - timedelta(days=1)))
    answers.note("get", lambda: service.get_portfolio(ids["Bob"], DAYS[0]))
    answers.note("portfolios", lambda: service.list_portfolios(DAYS[0]))
    answers.note("all portfolios", lambda: list(service.stream_portfolios(DAYS[0])))
    answers.note("list_session_dates", service.list_session_dates)
    _play_trades(service, answers, ids)


def _play_trades(service: EnhancedDatabaseService, answers: Answers, ids: dict[str, UUID]) -> None:
    players, amount = [ids[name] for name in NAMES[:2]], Decimal("1.5")
    # the last minute before midnight and the first after it
    times = (NOW - timedelta(minutes=31), NOW - timedelta(minutes=29))
    trades = [
        Trade(UUID(int=n), player, time.date(), "AAPL", "BUY", amount, Decimal(100 + n), time)
        for n, (player, time) in enumerate(zip(players, times, strict=True), 1)
    ]
    positions = [
        Position(trade.user_id, trade.session_date, trade.symbol, amount, trade.price) for trade in trades
    ]
    answers.note("load_trades", lambda: service.load_trades(trades))
    answers.note("load_positions", lambda: service.load_positions(positions))
    for day in DAYS[1:]:
        answers.note(f"positions {day}", service.list_positions, players, day)
        answers.note(f"trades {day}", service.list_trades, players, day)
        answers.note(f"all positions {day}", lambda day=day: list(service.stream_positions(day)))
        answers.note(f"all trades {day}", lambda day=day: list(service.stream_trades(day)))


def _play_boards(service: EnhancedDatabaseService, answers: Answers, ids: dict[str, UUID]) -> None:
    for day in DAYS:
        # one after the other, so that who came first is the same everywhere
        for n, name in enumerate(NAMES):
            answers.note(
                f"score {name} {day}",
                service.update_leaderboard_entry,
                ids[name],
                BOARD,
                Decimal(n // 3),
                day,
                {"name": name},
            )
    batch = [LeaderboardUpdate(user_id, Decimal(1)) for user_id in ids.values()]
    answers.note("batch", lambda: service.batch_update_leaderboard("total_value", batch, DAYS[1]))
    for order in ("rank", "-rank", "username", "-username"):
        answers.note(
            f"board {order}",
            service.list_leaderboard,
            BOARD,
            DAYS[1],
            order=order,
            limit=6,
        )
    for text in (*NAMES, *FOLDED, "b", "b_", "O'"):
        answers.note(f"board of {text}", service.list_leaderboard, BOARD, DAYS[1], prefix=text)
        answers.note(f"count of {text}", service.count_leaderboard, BOARD, DAYS[1], prefix=text)
    for name, call in {
        "top": lambda: service.get_leaderboard(BOARD, DAYS[1], 5),
        "page": lambda: service.get_leaderboard(BOARD, DAYS[1], 5, offset=4),
        "rank": lambda: service.get_user_rank(ids["zoë"], BOARD, DAYS[1]),
        "around": lambda: service.get_leaderboard_around(ids["zoë"], BOARD, DAYS[1], radius=2),
        "close": lambda: service.close_session(DAYS[0]),
        "ranks": lambda: service.list_player_scores(list(ids.values()), BOARD, DAYS, ranked=True),
        "dates": lambda: service.list_leaderboard_dates(BOARD, before=DAYS[2]),
        "period": lambda: service.get_period_leaderboard(BOARD, sessions=2),
        "summary": lambda: service.find_leaderboard_summary(BOARD, DAYS[1]),
        "stream": lambda: list(service.stream_leaderboard(BOARD, DAYS[1])),
        "entries": lambda: service.list_leaderboard_entries(BOARD, DAYS[1], limit=3),
        "categories": lambda: service.list_leaderboard_categories(DAYS[1]),
        "load": lambda: service.load_leaderboard_entries(service.get_leaderboard(BOARD, DAYS[1])),
        "sessions": service.get_session_summaries,
    }.items():
        answers.note(f"board: {name}", call)


def _play_market(service: EnhancedDatabaseService, answers: Answers) -> None:
    # every 50 minutes around the change of clocks of 8 March and to the present
    times = [NOW - timedelta(minutes=50 * n) for n in range(110)]
    symbols = ("AAPL", "BRK.A", "BRK-B", "B")
    ticks = [
        Tick(symbol, time, Decimal(1000 + n + place * 7) / 10, volume=n, open=Decimal(99))
        for place, symbol in enumerate(symbols)
        for n, time in enumerate(times)
    ]
    answers.note("insert_market_ticks", lambda: service.insert_market_ticks(ticks[:50]))
    answers.note("insert many", lambda: service.insert_market_ticks(ticks))
    answers.note("load_market_ticks", lambda: service.load_market_ticks([*ticks, *ticks]))
    answers.note("insert one", lambda: service.insert_market_tick("AAPL", Decimal("1.5"), timestamp=NOW))
    answers.note("latest", service.get_latest_market_data)
    answers.note("latest of some", lambda: service.get_latest_market_data(["B", "BRK-B", "NONE"]))
    for bucket in ("1h", "1d", "1w"):
        answers.note(
            f"candles {bucket}",
            service.get_price_history,
            "AAPL",
            NOW - timedelta(days=5),
            NOW,
            bucket,
        )
    answers.note("returns", lambda: service.get_market_returns(DAYS[0] - timedelta(days=2), DAYS[2]))
    answers.note("statistics", service.get_price_statistics)
    answers.note("prices at", lambda: service.list_prices_at([("AAPL", NOW), ("B", NOW - timedelta(days=2))]))
    answers.note("sparklines", lambda: service.get_sparklines(points=5, step="12h"))
    answers.note("ticks", lambda: service.list_market_ticks("AAPL", start=NOW - timedelta(hours=9)))
    answers.note("all ticks", lambda: sum(1 for _ in service.stream_market_ticks("B", end=NOW)))
    answers.note("currencies", service.get_symbol_currencies)
    answers.note("moved weeks", service.get_moved_weeks)
    answers.note("partitions", lambda: service.maintain_partitions(months_ahead=3).dropped)


def _play_quests(service: EnhancedDatabaseService, answers: Answers, ids: dict[str, UUID]) -> None:
    quests = [
        answers.note(
            f"quest {n}",
            service.create_quest,
            ids["Bob"],
            type=kind,
            title=f"{TITLE} {n}",
            target_value=Decimal(n + 1),
            reward_type="cash",
            reward_value=Decimal(n),
            expires_at=NOW + timedelta(hours=7 * n) if n else None,
        )
        for n, kind in enumerate(("trade", "Trade", "a-b", "a_b"))
    ]
    answers.note("progress", lambda: service.update_quest_progress(quests[1].id, Decimal(2)))
    answers.note("active", lambda: service.get_user_active_quests(ids["Bob"]))
    answers.note("totals", service.get_quest_totals)
    answers.note("expiring", service.list_expiring_quests)
    answers.note("of user", lambda: service.get_user_quests(ids["Bob"]))
    bulk = [
        Quest(
            UUID(int=n), ids["zoë"], "bulk", TITLE, None, Decimal(n), Decimal(0), "ACTIVE", None, None,
            NOW - timedelta(days=2), NOW - timedelta(minutes=1),
        )
        for n in range(1, 30)
    ]  # fmt: skip  # one column a line would hide that these are the table's
    answers.note("load_quests", lambda: service.load_quests(bulk))
    answers.note("quests", lambda: service.list_quests(limit=3))
    answers.note("all quests", lambda: sum(1 for _ in service.stream_quests()))
    answers.note("completed", lambda: list(service.count_completed_quests([ids["Bob"]]).values()))
    answers.note("undated", service.count_undated_quests)
    answers.note("outcomes", service.list_quest_outcomes)
    answers.note("times", lambda: service.get_completion_times().completed)
    answers.note("returns", service.get_quest_returns)
    answers.note("stuck", lambda: service.list_stuck_quests(type="bulk"))
    answers.note("player report", lambda: service.get_player_report().windows)
    answers.note("player days", service.list_player_days)
    answers.note(
        "silent", lambda: [p.username for p in service.list_silent_players(days=1, order="username")]
    )
    answers.note("silent count", lambda: service.count_silent_players(days=1))
    answers.note("all silent", lambda: sum(1 for _ in service.stream_silent_players(days=1)))
    answers.note("seen", lambda: service.get_seen_players(days=2))
    answers.note("expire", service.expire_quests)


def _play_events(service: EnhancedDatabaseService, answers: Answers) -> None:
    for n, kind in enumerate(("SPLIT", "earnings", "a-b", "a_b")):
        answers.note(
            f"event {kind}",
            service.create_market_event,
            type=kind,
            title=TITLE,
            affected_symbols=["AAPL", f"S{n}"],
            impact_magnitude=Decimal(n),
        )
    loaded = [
        MarketEvent(UUID(int=n), "bulk", TITLE, None, ("A", "NULL"), None, "NEUTRAL", NOW - timedelta(days=n))
        for n in range(1, 30)
    ]
    answers.note("load_market_events", lambda: service.load_market_events(loaded))
    answers.note("recent", lambda: service.get_recent_market_events(8))
    answers.note("types", service.list_market_event_types)
    answers.note("all events", lambda: list(service.stream_market_events(type="bulk")))
    answers.note("effect", lambda: service.find_event_effect(loaded[0].id, timedelta(hours=1)))
    answers.note(
        "events since", lambda: service.list_market_events(symbol="NULL", since=NOW - timedelta(days=3))
    )


def _play_rest(service: EnhancedDatabaseService, answers: Answers, ids: dict[str, UUID]) -> None:
    def give_up() -> None:
        with service.transaction():
            service.update_user_profile(ids["alice"], name="given up")
            service.update_leaderboard_entry(ids["alice"], BOARD, Decimal(99), DAYS[1])
            raise InvalidInput("given up on purpose")

    def go_on() -> None:
        with service.transaction():
            service.update_user_profile(ids["alice"], name="kept")
            # quotes and backslashes in a statement that is not the first of its transaction
            service.update_user_profile(ids["zoë"], name=TRICKY, preferences={"name": TRICKY})
            answers.note("refused inside", lambda: service.create_user(username="alice"))
            service.load_market_events([])
            service.update_leaderboard_entry(ids["alice"], BOARD, Decimal(50), DAYS[1])

    answers.note("rolled back", give_up)
    answers.note("after it", lambda: service.get_user_by_id(ids["alice"]).name)
    answers.note("committed", go_on)
    answers.note("tricky", lambda: service.get_user_by_id(ids["zoë"]))
    assert service.get_user_by_id(ids["zoë"]).name == TRICKY
    answers.note("then", lambda: service.get_user_by_id(ids["alice"]).name)
    answers.note("and the board", lambda: service.get_leaderboard(BOARD, DAYS[1], 3))
    answers.note("active players", lambda: service.count_active_players(NOW - timedelta(days=1)))
    answers.note("gains", lambda: service.get_player_gains(ids["alice"], DAYS[0], DAYS[2]))
    answers.note("tables", lambda: [row.table for row in service.list_table_sizes()])
    with service.audited(actor="alice", action="warm_cache", target=TITLE):
        pass
    answers.note("audit", lambda: [event.target for event in service.list_audit_events()])
    answers.note("all audit", lambda: [event.outcome for event in service.stream_audit_events()])
    with service.acting_as("alice", request_id="request"):
        answers.note("audited profile", lambda: service.update_user_profile(ids["alice"], name=TRICKY).name)
    answers.note(
        "audit changes",
        lambda: [(each.after, each.request_id) for each in service.list_audit_changes(row_key=ids["alice"])],
    )
    answers.note("all audit changes", lambda: [each.before for each in service.stream_audit_changes()])
    answers.note("sealed", lambda: service.seal_audit_log().events)
    answers.note("verified", lambda: service.verify_audit_log().broken)
    answers.note("audit maintained", lambda: service.maintain_audit_log().dropped)
    answers.note("delete_user", lambda: service.delete_user(ids["Bob"]))
    answers.note("gone", lambda: service.get_user_by_id(ids["Bob"]))
    answers.note("delete_market_ticks", lambda: service.delete_market_ticks("BRK-B"))
