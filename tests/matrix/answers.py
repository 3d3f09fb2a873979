"""Makes the same calls on any server and records their results, so that servers can be compared.

Owns the calls and the normalization of the results: ids are numbered by first appearance, and times of the
server's clock are written as `now`. The calls include the cases whose results could depend on time zone,
locale or pooler: times near midnight and around the start of daylight saving time, names in several
alphabets, ties, bulk loads, and transactions that are rolled back.
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

# West of UTC this time is on the day before, so results that use the local date would differ.
NOW = datetime(2026, 3, 11, 0, 30, tzinfo=UTC)
DAYS = tuple(date(2026, 3, day) for day in (9, 10, 11))
LEADERBOARD = "daily_returns"
# The locale decides which letters of these texts are upper and lower case, so searches for them can differ.
FOLDED = ("οδ", "σί", "ΟΔ", "ος", "i", "İ", "ÄRGER")
NAMES = ("alice", "Bob", "b_b%b", "ΟΔΟΣ", "ΣΊΣΥΦΟΣ", "İstanbul", "Ärger", "zoë", "O'Brien\\", "10-4")
TRICKY = "\\'; -- \\\\'' \\n E'x' %s %% _"
TITLE = "naïve “quotes”, \\ and 日本"


class Recorder:
    """Records the normalized result of each call by name; with `ignores_zone` times have no zone."""

    def __init__(self, *, ignores_zone: bool = False) -> None:
        self._ignores_zone = ignores_zone
        self.results: dict[str, Any] = {}
        self._ids: dict[UUID, str] = {}

    def record(self, name: str, call: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
        """Make a call, record its result or the class of its error, and return the result."""
        try:
            result = call(*arguments, **options)
        except EchoMarketsError as error:
            result = None
            self.results[name] = type(error).__name__
        else:
            self.results[name] = self._normalize(result)
        return result

    def _normalize_time(self, value: datetime) -> str:
        is_now = abs(datetime.now(UTC) - value) < timedelta(hours=1)
        instant = "now" if is_now else value.astimezone(UTC).isoformat()
        return instant if self._ignores_zone else f"{instant} {value.tzinfo}"

    def _normalize(self, value: Any) -> Any:
        if isinstance(value, UUID):
            return self._ids.setdefault(value, f"id {len(self._ids)}")
        if isinstance(value, datetime):
            return self._normalize_time(value)
        if isinstance(value, msgspec.Struct):
            return {name: self._normalize(item) for name, item in msgspec.structs.asdict(value).items()}
        if isinstance(value, Mapping):
            return {str(key): self._normalize(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return [self._normalize(item) for item in value]
        return repr(value)


def play(service: EnhancedDatabaseService, *, ignores_zone: bool = False) -> dict[str, Any]:
    """Make every call on an empty database; return the recorded results by name."""
    service._clock = lambda: NOW
    recorder = Recorder(ignores_zone=ignores_zone)
    ids = _play_users(service, recorder)
    _play_portfolios(service, recorder, ids)
    _play_leaderboards(service, recorder, ids)
    _play_market(service, recorder)
    _play_quests(service, recorder, ids)
    _play_events(service, recorder)
    _play_rest(service, recorder, ids)
    return recorder.results


def _play_users(service: EnhancedDatabaseService, recorder: Recorder) -> dict[str, UUID]:
    users = [
        recorder.record(f"create_user {name}", service.create_user, username=name, name=name)
        for name in NAMES
    ]
    ids = {user.username: user.id for user in users}
    recorder.record("touch", lambda: service.touch_last_active(ids["alice"]))
    recorder.record(
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
    recorder.record("load_users", lambda: service.load_users([*loaded, *loaded]))
    for text in (*NAMES, *FOLDED, "a", "B", "%", "b_", "load-0", "nobody"):
        recorder.record(f"search_users {text}", service.search_users, text, limit=5)
        recorder.record(f"by name {text}", service.get_user_by_username, text)
    recorder.record("by e-mail", service.list_users_by_email, "Z@example.com")
    recorder.record("keys", service.list_encryption_keys)
    recorder.record("users", lambda: [user.username for user in service.list_users(limit=60)])
    recorder.record("all users", lambda: sum(1 for _ in service.stream_users()))
    return ids


def _play_portfolios(service: EnhancedDatabaseService, recorder: Recorder, ids: dict[str, UUID]) -> None:
    for day in DAYS:
        for name in NAMES[:4]:
            recorder.record(f"open {name} {day}", service.get_current_portfolio, ids[name], day)
    updates = [
        PortfolioUpdate(ids[name], day, Decimal(10_000 + 100 * n), Decimal(n), None if n % 2 else Decimal(7))
        for day in DAYS
        for n, name in enumerate(NAMES)
    ]
    result = service.batch_update_portfolios(updates)
    recorder.record("batch_update_portfolios", lambda: (result.updated, len(result.missing)))
    recorder.record(
        "update_portfolio_value",
        lambda: service.update_portfolio_value(ids["alice"], DAYS[2], Decimal("9999.99"), Decimal("-1.01")),
    )
    history = recorder.record("history", lambda: service.get_portfolio_history(ids["alice"]))
    recorder.record("load_portfolios", lambda: service.load_portfolios(history))
    recorder.record("current", lambda: service.get_current_portfolio(ids["alice"]))
    recorder.record("find", lambda: service.find_portfolio(ids["Bob"], DAYS[0] - timedelta(days=1)))
    recorder.record("get", lambda: service.get_portfolio(ids["Bob"], DAYS[0]))
    recorder.record("portfolios", lambda: service.list_portfolios(DAYS[0]))
    recorder.record("all portfolios", lambda: list(service.stream_portfolios(DAYS[0])))
    recorder.record("list_session_dates", service.list_session_dates)
    _play_trades(service, recorder, ids)


def _play_trades(service: EnhancedDatabaseService, recorder: Recorder, ids: dict[str, UUID]) -> None:
    players, amount = [ids[name] for name in NAMES[:2]], Decimal("1.5")
    # 23:59 and 00:01 UTC, so the trades belong to two days
    times = (NOW - timedelta(minutes=31), NOW - timedelta(minutes=29))
    trades = [
        Trade(UUID(int=n), player, time.date(), "AAPL", "BUY", amount, Decimal(100 + n), time)
        for n, (player, time) in enumerate(zip(players, times, strict=True), 1)
    ]
    positions = [
        Position(trade.user_id, trade.session_date, trade.symbol, amount, trade.price) for trade in trades
    ]
    recorder.record("load_trades", lambda: service.load_trades(trades))
    recorder.record("load_positions", lambda: service.load_positions(positions))
    for day in DAYS[1:]:
        recorder.record(f"positions {day}", service.list_positions, players, day)
        recorder.record(f"trades {day}", service.list_trades, players, day)
        recorder.record(f"all positions {day}", lambda day=day: list(service.stream_positions(day)))
        recorder.record(f"all trades {day}", lambda day=day: list(service.stream_trades(day)))


def _play_leaderboards(service: EnhancedDatabaseService, recorder: Recorder, ids: dict[str, UUID]) -> None:
    for day in DAYS:
        # write the scores one by one, so that ties have the same order on every server
        for n, name in enumerate(NAMES):
            recorder.record(
                f"score {name} {day}",
                service.update_leaderboard_entry,
                ids[name],
                LEADERBOARD,
                Decimal(n // 3),
                day,
                {"name": name},
            )
    batch = [LeaderboardUpdate(user_id, Decimal(1)) for user_id in ids.values()]
    recorder.record("batch", lambda: service.batch_update_leaderboard("total_value", batch, DAYS[1]))
    for order in ("rank", "-rank", "username", "-username"):
        recorder.record(
            f"leaderboard {order}",
            service.list_leaderboard,
            LEADERBOARD,
            DAYS[1],
            order=order,
            limit=6,
        )
    for text in (*NAMES, *FOLDED, "b", "b_", "O'"):
        recorder.record(f"leaderboard of {text}", service.list_leaderboard, LEADERBOARD, DAYS[1], prefix=text)
        recorder.record(f"count of {text}", service.count_leaderboard, LEADERBOARD, DAYS[1], prefix=text)
    for name, call in {
        "top": lambda: service.get_leaderboard(LEADERBOARD, DAYS[1], 5),
        "page": lambda: service.get_leaderboard(LEADERBOARD, DAYS[1], 5, offset=4),
        "rank": lambda: service.get_user_rank(ids["zoë"], LEADERBOARD, DAYS[1]),
        "around": lambda: service.get_leaderboard_around(ids["zoë"], LEADERBOARD, DAYS[1], radius=2),
        "close": lambda: service.close_session(DAYS[0]),
        "ranks": lambda: service.list_player_scores(list(ids.values()), LEADERBOARD, DAYS, ranked=True),
        "dates": lambda: service.list_leaderboard_dates(LEADERBOARD, before=DAYS[2]),
        "period": lambda: service.get_period_leaderboard(LEADERBOARD, sessions=2),
        "summary": lambda: service.find_leaderboard_summary(LEADERBOARD, DAYS[1]),
        "stream": lambda: list(service.stream_leaderboard(LEADERBOARD, DAYS[1])),
        "entries": lambda: service.list_leaderboard_entries(LEADERBOARD, DAYS[1], limit=3),
        "categories": lambda: service.list_leaderboard_categories(DAYS[1]),
        "load": lambda: service.load_leaderboard_entries(service.get_leaderboard(LEADERBOARD, DAYS[1])),
        "sessions": service.get_session_summaries,
    }.items():
        recorder.record(f"leaderboard: {name}", call)


def _play_market(service: EnhancedDatabaseService, recorder: Recorder) -> None:
    # every 50 minutes from 7 March to `NOW`; daylight saving time begins on 8 March in America
    times = [NOW - timedelta(minutes=50 * n) for n in range(110)]
    symbols = ("AAPL", "BRK.A", "BRK-B", "B")
    ticks = [
        Tick(symbol, time, Decimal(1000 + n + index * 7) / 10, volume=n, open=Decimal(99))
        for index, symbol in enumerate(symbols)
        for n, time in enumerate(times)
    ]
    recorder.record("insert_market_ticks", lambda: service.insert_market_ticks(ticks[:50]))
    recorder.record("insert many", lambda: service.insert_market_ticks(ticks))
    recorder.record("load_market_ticks", lambda: service.load_market_ticks([*ticks, *ticks]))
    recorder.record("insert one", lambda: service.insert_market_tick("AAPL", Decimal("1.5"), timestamp=NOW))
    recorder.record("latest", service.get_latest_market_data)
    recorder.record("latest of some", lambda: service.get_latest_market_data(["B", "BRK-B", "NONE"]))
    for bucket in ("1h", "1d", "1w"):
        recorder.record(
            f"candles {bucket}",
            service.get_price_history,
            "AAPL",
            NOW - timedelta(days=5),
            NOW,
            bucket,
        )
    recorder.record("returns", lambda: service.get_market_returns(DAYS[0] - timedelta(days=2), DAYS[2]))
    recorder.record("statistics", service.get_price_statistics)
    recorder.record(
        "prices at", lambda: service.list_prices_at([("AAPL", NOW), ("B", NOW - timedelta(days=2))])
    )
    recorder.record("sparklines", lambda: service.get_sparklines(points=5, step="12h"))
    recorder.record("ticks", lambda: service.list_market_ticks("AAPL", start=NOW - timedelta(hours=9)))
    recorder.record("all ticks", lambda: sum(1 for _ in service.stream_market_ticks("B", end=NOW)))
    recorder.record("currencies", service.get_symbol_currencies)
    recorder.record("moved weeks", service.get_moved_weeks)
    recorder.record("partitions", lambda: service.maintain_partitions(months_ahead=3).dropped)


def _play_quests(service: EnhancedDatabaseService, recorder: Recorder, ids: dict[str, UUID]) -> None:
    quests = [
        recorder.record(
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
    recorder.record("progress", lambda: service.update_quest_progress(quests[1].id, Decimal(2)))
    recorder.record("active", lambda: service.get_user_active_quests(ids["Bob"]))
    recorder.record("totals", service.get_quest_totals)
    recorder.record("expiring", service.list_expiring_quests)
    recorder.record("of user", lambda: service.get_user_quests(ids["Bob"]))
    bulk = [
        Quest(
            UUID(int=n), ids["zoë"], "bulk", TITLE, None, Decimal(n), Decimal(0), "ACTIVE", None, None,
            NOW - timedelta(days=2), NOW - timedelta(minutes=1),
        )
        for n in range(1, 30)
    ]  # fmt: skip  # keep the fields on two lines
    recorder.record("load_quests", lambda: service.load_quests(bulk))
    recorder.record("quests", lambda: service.list_quests(limit=3))
    recorder.record("all quests", lambda: sum(1 for _ in service.stream_quests()))
    recorder.record("completed", lambda: list(service.count_completed_quests([ids["Bob"]]).values()))
    recorder.record("undated", service.count_undated_quests)
    recorder.record("outcomes", service.list_quest_outcomes)
    recorder.record("times", lambda: service.get_completion_times().completed)
    recorder.record("returns", service.get_quest_returns)
    recorder.record("stuck", lambda: service.list_stuck_quests(type="bulk"))
    recorder.record("player report", lambda: service.get_player_report().windows)
    recorder.record("player days", service.list_player_days)
    recorder.record(
        "silent", lambda: [p.username for p in service.list_silent_players(days=1, order="username")]
    )
    recorder.record("silent count", lambda: service.count_silent_players(days=1))
    recorder.record("all silent", lambda: sum(1 for _ in service.stream_silent_players(days=1)))
    recorder.record("seen", lambda: service.get_seen_players(days=2))
    recorder.record("expire", service.expire_quests)


def _play_events(service: EnhancedDatabaseService, recorder: Recorder) -> None:
    for n, kind in enumerate(("SPLIT", "earnings", "a-b", "a_b")):
        recorder.record(
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
    recorder.record("load_market_events", lambda: service.load_market_events(loaded))
    recorder.record("recent", lambda: service.get_recent_market_events(8))
    recorder.record("types", service.list_market_event_types)
    recorder.record("all events", lambda: list(service.stream_market_events(type="bulk")))
    recorder.record("effect", lambda: service.find_event_effect(loaded[0].id, timedelta(hours=1)))
    recorder.record(
        "events since", lambda: service.list_market_events(symbol="NULL", since=NOW - timedelta(days=3))
    )


def _play_rest(service: EnhancedDatabaseService, recorder: Recorder, ids: dict[str, UUID]) -> None:
    def roll_back() -> None:
        with service.transaction():
            service.update_user_profile(ids["alice"], name="given up")
            service.update_leaderboard_entry(ids["alice"], LEADERBOARD, Decimal(99), DAYS[1])
            raise InvalidInput("given up on purpose")

    def commit() -> None:
        with service.transaction():
            service.update_user_profile(ids["alice"], name="kept")
            # Quotes and backslashes in a later statement. Behind a pooler the service sends its session
            # settings with the first statement of a transaction.
            service.update_user_profile(ids["zoë"], name=TRICKY, preferences={"name": TRICKY})
            recorder.record("refused inside", lambda: service.create_user(username="alice"))
            service.load_market_events([])
            service.update_leaderboard_entry(ids["alice"], LEADERBOARD, Decimal(50), DAYS[1])

    recorder.record("rolled back", roll_back)
    recorder.record("after it", lambda: service.get_user_by_id(ids["alice"]).name)
    recorder.record("committed", commit)
    recorder.record("tricky", lambda: service.get_user_by_id(ids["zoë"]))
    assert service.get_user_by_id(ids["zoë"]).name == TRICKY
    recorder.record("then", lambda: service.get_user_by_id(ids["alice"]).name)
    recorder.record("leaderboard after it", lambda: service.get_leaderboard(LEADERBOARD, DAYS[1], 3))
    recorder.record("active players", lambda: service.count_active_players(NOW - timedelta(days=1)))
    recorder.record("gains", lambda: service.get_player_gains(ids["alice"], DAYS[0], DAYS[2]))
    recorder.record("tables", lambda: [row.table for row in service.list_table_sizes()])
    with service.audited(actor="alice", action="warm_cache", target=TITLE):
        pass
    recorder.record("audit", lambda: [event.target for event in service.list_audit_events()])
    recorder.record("all audit", lambda: [event.outcome for event in service.stream_audit_events()])
    with service.acting_as("alice", request_id="request"):
        recorder.record(
            "audited profile", lambda: service.update_user_profile(ids["alice"], name=TRICKY).name
        )
    recorder.record(
        "audit changes",
        lambda: [
            (change.after, change.request_id) for change in service.list_audit_changes(row_key=ids["alice"])
        ],
    )
    recorder.record("all audit changes", lambda: [change.before for change in service.stream_audit_changes()])
    recorder.record("sealed", lambda: service.seal_audit_log().events)
    recorder.record("verified", lambda: service.verify_audit_log().broken)
    recorder.record("audit maintained", lambda: service.maintain_audit_log().dropped)
    recorder.record("delete_user", lambda: service.delete_user(ids["Bob"]))
    recorder.record("gone", lambda: service.get_user_by_id(ids["Bob"]))
    recorder.record("delete_market_ticks", lambda: service.delete_market_ticks("BRK-B"))
