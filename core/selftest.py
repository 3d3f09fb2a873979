"""Runs every call of the service against the configured database.

Owns the sequence and what each call must answer. Works on a throw-away player, a
session long past and a symbol of its own, and removes all of it again, also after
a failure or an interruption. What a call does to the rows of others is rolled back.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TypeVar
from uuid import uuid4

from msgspec.structs import replace

from core.errors import EchoMarketsError, MissingExtra
from core.records import (
    LeaderboardUpdate,
    MarketEvent,
    Portfolio,
    PortfolioUpdate,
    Position,
    Quest,
    Tick,
    Trade,
    User,
)
from core.selftest_bulk import check_bulk_reads
from core.selftest_cleanup import ACTOR, EVENT_TYPE, SESSION, find_abandoned, new_name, remove, symbol_of
from core.selftest_standings import check_standings
from core.service import EnhancedDatabaseService

VALUE = Decimal("10500.00")

T = TypeVar("T")


class _Run:
    """One run: what was made so far, and how the calls went."""

    def __init__(self, service: EnhancedDatabaseService, report: Callable[[str], object]) -> None:
        self.service = service
        self.report = report
        self.failed = 0
        self.user: User | None = None
        self.event: MarketEvent | None = None
        self.name = new_name()
        self.symbol = symbol_of(self.name)

    def call(self, name: str, method: Callable[[], object], expected: Callable[[object], bool]) -> object:
        """Make one call, check its answer and print a line."""
        started = time.perf_counter()
        try:
            answer = method()
            problem = None if expected(answer) else f"answered {answer!r}"
        except MissingExtra as error:
            self.report(f"skip {name:28} {error}")
            return None
        except Exception as error:
            # the edge of a call: whatever it raises, the others are still tried
            answer, problem = None, f"raised {type(error).__name__}: {error}"
        milliseconds = (time.perf_counter() - started) * 1000
        self.failed += problem is not None
        state = "ok  " if problem is None else "FAIL"
        self.report(f"{state} {name:28} {milliseconds:8.1f} ms{'' if problem is None else '  ' + problem}")
        return answer


def run_self_test(service: EnhancedDatabaseService, *, report: Callable[[str], object]) -> bool:
    """Make every call, print a line for each, and say whether all answered as they must.

    No row of it stays, whatever happens; of one that was killed, the next one removes what is left.
    """
    run = _Run(service, report)
    try:
        _remove_abandoned(run)
        _check_all(run)
        _check_removal(run)
    except EchoMarketsError as error:
        run.failed += 1
        report(f"FAIL the rest was not tried: {error}")
    finally:
        _clean_up(run, run.name)
    report(f"failed: {run.failed}" if run.failed else "all calls passed")
    return not run.failed


def _check_all(run: _Run) -> None:
    user = _check_user(run)
    if user is not None:
        _check_portfolios(run, user)
        _check_leaderboards(run, user)
        check_standings(run.call, run.service, user, category=run.name, session=SESSION)
        _check_quests(run, user)
        _check_loads(run, user)
    _check_market(run)
    _check_events(run)
    _check_insights(run, user)
    run.call("to_frame", lambda: len(run.service.to_frame((), kind=Tick)), _equals(0))
    run.call("to_json", lambda: run.service.to_json(None), _equals(b"null"))
    if user is not None:
        check_bulk_reads(run.call, run.service, user, category=run.name, session=SESSION, symbol=run.symbol)
    _check_upkeep(run, user)


def _check_user(run: _Run) -> User | None:
    service = run.service
    user = run.call("create_user", lambda: service.create_user(username=run.name), _is(User))
    if not isinstance(user, User):
        return None
    run.user = user
    run.call("get_user_by_id", lambda: service.get_user_by_id(user.id), _equals(user))
    run.call("get_user_by_username", lambda: service.get_user_by_username(run.name), _equals(user))
    run.call("search_users", lambda: service.search_users(run.name), _equals((user,)))
    run.call(
        "update_user_profile",
        lambda: service.update_user_profile(user.id, name="Self Test").name,
        _equals("Self Test"),
    )
    run.call("touch_last_active", lambda: service.touch_last_active(user.id), _equals(None))
    moment = datetime.now(UTC) + timedelta(seconds=1)
    run.call(
        "batch_touch_last_active", lambda: service.batch_touch_last_active({user.id: moment}), _equals(1)
    )
    return user


class _GivenUp(Exception):
    """Ends a transaction without a commit."""


def _undo(service: EnhancedDatabaseService, call: Callable[[], T]) -> T:
    """Make a call in a transaction that is given up; return what it answered."""
    answers = []
    with suppress(_GivenUp), service.transaction():
        answers.append(call())
        raise _GivenUp
    return answers[0]


def _roll_back(service: EnhancedDatabaseService, user: User) -> str | None:
    """Rename in a transaction that is given up; return the name that is there afterwards."""
    _undo(service, lambda: service.update_user_profile(user.id, name="Rolled back"))
    return service.get_user_by_id(user.id).name


def _check_portfolios(run: _Run, user: User) -> None:
    service = run.service
    run.call("transaction", lambda: _roll_back(service, user), _equals("Self Test"))
    run.call("find_portfolio", lambda: service.find_portfolio(user.id, SESSION), _equals(None))
    run.call(
        "get_current_portfolio",
        lambda: service.get_current_portfolio(user.id, SESSION),
        _is(Portfolio),
    )
    run.call("get_portfolio", lambda: service.get_portfolio(user.id, SESSION).session_date, _equals(SESSION))
    run.call(
        "update_portfolio_value",
        lambda: service.update_portfolio_value(user.id, SESSION, VALUE, Decimal(500)).total_value,
        _equals(VALUE),
    )
    update = PortfolioUpdate(user.id, SESSION, VALUE, Decimal(500))
    run.call(
        "batch_update_portfolios",
        lambda: service.batch_update_portfolios([update]).updated,
        _equals(1),
    )
    run.call(
        "get_portfolio_history",
        lambda: [p.total_value for p in service.get_portfolio_history(user.id)],
        _equals([VALUE]),
    )
    run.call(
        "list_session_dates",
        lambda: service.list_session_dates(before=SESSION + timedelta(days=1)),
        lambda days: isinstance(days, tuple) and SESSION in days,
    )


def _check_leaderboards(run: _Run, user: User) -> None:
    service = run.service
    run.call(
        "update_leaderboard_entry",
        lambda: service.update_leaderboard_entry(user.id, run.name, VALUE, SESSION).score,
        _equals(VALUE),
    )
    update = LeaderboardUpdate(user.id, VALUE)
    run.call(
        "batch_update_leaderboard",
        lambda: service.batch_update_leaderboard(run.name, [update], SESSION).updated,
        _equals(1),
    )
    for name, method in {
        "get_leaderboard": lambda: service.get_leaderboard(run.name, SESSION),
        "get_leaderboard_around": lambda: service.get_leaderboard_around(user.id, run.name, SESSION),
        "get_user_rank": lambda: (service.get_user_rank(user.id, run.name, SESSION),),
    }.items():
        run.call(
            name,
            method,
            lambda entries: isinstance(entries, tuple) and user.id in {e.user_id for e in entries},
        )
    run.call(
        "list_leaderboard_categories",
        lambda: run.name in service.list_leaderboard_categories(SESSION),
        _equals(True),
    )
    run.call("close_session", lambda: service.close_session(SESSION), _at_least(1))


def _check_quests(run: _Run, user: User) -> None:
    service = run.service
    quest = run.call(
        "create_quest",
        lambda: service.create_quest(user.id, type="SELF_TEST", title="Self test", target_value=Decimal(1)),
        _is(Quest),
    )
    run.call("get_user_active_quests", lambda: service.get_user_active_quests(user.id), _equals((quest,)))
    if isinstance(quest, Quest):
        run.call(
            "update_quest_progress",
            lambda: service.update_quest_progress(quest.id, Decimal(1)).status,
            _equals("COMPLETED"),
        )
        run.call(
            "count_completed_quests", lambda: service.count_completed_quests([user.id]), _equals({user.id: 1})
        )
    run.call("expire_quests", lambda: _undo(service, service.expire_quests), _at_least(0))


def _check_loads(run: _Run, user: User) -> None:
    service = run.service
    renamed = replace(user, name="Loaded")
    run.call("load_users", lambda: service.load_users([renamed]), _equals({user.username: user.id}))
    [portfolio] = service.get_portfolio_history(user.id)
    richer = replace(portfolio, total_value=VALUE + 1)
    run.call("load_portfolios", lambda: service.load_portfolios([richer]), _equals(1))
    position = Position(user.id, SESSION, run.symbol, Decimal(2), Decimal(10))
    run.call("load_positions", lambda: service.load_positions([position]), _equals(1))
    run.call("list_positions", lambda: service.list_positions([user.id], SESSION), _equals((position,)))
    bought_at = datetime.combine(SESSION, datetime.min.time(), UTC)
    trade = Trade(uuid4(), user.id, SESSION, run.symbol, "BUY", Decimal(2), Decimal(10), bought_at)
    run.call("load_trades", lambda: service.load_trades([trade]), _equals(1))
    run.call("list_trades", lambda: service.list_trades([user.id], SESSION), _equals((trade,)))
    run.call(
        "get_player_gains",
        lambda: [gain.bought for gain in service.get_player_gains(user.id, SESSION, SESSION).symbols],
        _equals([Decimal(20)]),
    )
    [entry] = [entry for entry in service.get_leaderboard(run.name, SESSION) if entry.user_id == user.id]
    higher = replace(entry, score=VALUE + 1)
    run.call("load_leaderboard_entries", lambda: service.load_leaderboard_entries([higher]), _equals(1))
    [quest] = service.get_user_quests(user.id)
    renewed = replace(quest, title="Loaded")
    run.call("load_quests", lambda: service.load_quests([renewed]), _equals(1))
    event = MarketEvent(
        id=uuid4(),
        type=EVENT_TYPE,
        title=run.name,
        description=None,
        affected_symbols=(run.symbol,),
        impact_magnitude=None,
        sentiment="NEUTRAL",
        created_at=bought_at,
    )
    run.call("load_market_events", lambda: service.load_market_events([event]), _equals(1))


def _check_market(run: _Run) -> None:
    service, symbol = run.service, run.symbol
    start = datetime.combine(SESSION, datetime.min.time(), UTC)
    tick = Tick(symbol=symbol, timestamp=start, price=Decimal(10))
    run.call(
        "insert_market_tick",
        lambda: service.insert_market_tick(symbol, Decimal(10), timestamp=start),
        _equals(tick),
    )
    run.call("insert_market_ticks", lambda: service.insert_market_ticks([tick]), _equals(1))
    earlier = replace(tick, timestamp=start - timedelta(days=1))
    run.call("load_market_ticks", lambda: service.load_market_ticks([earlier]), _equals(1))
    run.call("get_latest_market_data", lambda: service.get_latest_market_data([symbol]), _equals((tick,)))
    run.call(
        "update_symbol_currencies", lambda: service.update_symbol_currencies({symbol: "USD"}), _equals(1)
    )
    run.call("update_moved_weeks", lambda: service.update_moved_weeks({symbol: 3}), _equals(1))
    run.call("get_moved_weeks", lambda: service.get_moved_weeks()[symbol], _equals(3))
    run.call("get_symbol_currencies", lambda: service.get_symbol_currencies()[symbol], _equals("USD"))
    run.call(
        "get_price_history",
        lambda: len(service.get_price_history(symbol, start, start + timedelta(days=1), "1d")),
        _equals(1),
    )


def _check_events(run: _Run) -> None:
    service = run.service
    event = run.call(
        "create_market_event",
        lambda: service.create_market_event(type=EVENT_TYPE, title=run.name),
        _is(MarketEvent),
    )
    run.event = event if isinstance(event, MarketEvent) else None
    run.call(
        "get_recent_market_events",
        lambda: event in service.get_recent_market_events(1_000),
        _equals(True),
    )


def _check_insights(run: _Run, user: User | None) -> None:
    service, symbol = run.service, run.symbol
    run.call(
        "get_sparklines",
        lambda: service.get_sparklines([symbol])[0].prices,
        _equals((Decimal(10), Decimal(10))),
    )
    run.call(
        "list_market_events", lambda: service.list_market_events(1, type=EVENT_TYPE)[0], _equals(run.event)
    )
    run.call(
        "list_market_event_types", lambda: EVENT_TYPE in service.list_market_event_types(), _equals(True)
    )
    run.call("get_session_summaries", lambda: len(service.get_session_summaries(limit=1)), _equals(1))
    run.call(
        "count_active_players",
        lambda: service.count_active_players(datetime.now(UTC) - timedelta(minutes=1)),
        _at_least(1),
    )
    run.call("get_quest_totals", service.get_quest_totals, _is(tuple))
    run.call("list_expiring_quests", service.list_expiring_quests, _is(tuple))
    run.call("list_slowest_quests", service.list_slowest_quests, _is(tuple))
    if user is not None:
        run.call(
            "get_user_quests",
            lambda: [quest.status for quest in service.get_user_quests(user.id)],
            _equals(["COMPLETED"]),
        )


def _check_upkeep(run: _Run, user: User | None) -> None:
    service = run.service
    if user is not None:
        run.call("clear_user_cache", lambda: service.clear_user_cache(user.id), _equals(None))
    run.call("clear_market_data_cache", service.clear_market_data_cache, _equals(None))
    run.call(
        "maintain_partitions",
        lambda: _undo(service, lambda: service.maintain_partitions().dropped),
        _equals(()),
    )
    run.call("audited", lambda: _audit(service, run.name), _equals("started"))
    run.call(
        "list_audit_events",
        lambda: {event.target: event.outcome for event in service.list_audit_events()}.get(run.name),
        _equals("done"),
    )
    run.call("warm_cache", lambda: service.warm_cache(players=1), _at_least(1))
    run.call("list_table_sizes", lambda: len(service.list_table_sizes()), _at_least(1))
    run.call("list_unused_indexes", service.list_unused_indexes, _is(tuple))
    # None where the server does not keep them
    run.call("list_slowest_statements", lambda: service.list_slowest_statements() or (), _is(tuple))
    run.call("health", lambda: service.health().database, _equals("healthy"))
    run.call("pool_stats", lambda: service.pool_stats().pool_in_use, _equals(0))
    run.call("stale_seconds", service.stale_seconds, _equals(None))
    run.call("cache_stats", lambda: service.cache_stats().state, lambda state: state != "down")


def _audit(service: EnhancedDatabaseService, name: str) -> str:
    """Audit an action that does nothing; return the outcome that its record has meanwhile."""
    with service.audited(actor=ACTOR, action="clear_cache", target=name) as event:
        return event.outcome


def _check_removal(run: _Run) -> None:
    service, user, event = run.service, run.user, run.event
    run.call("delete_market_ticks", lambda: service.delete_market_ticks(run.symbol), _equals(2))
    if event is not None:
        run.call("delete_market_event", lambda: service.delete_market_event(event.id), _equals(True))
    if user is not None:
        run.call("delete_user", lambda: service.delete_user(user.id), _equals(None))


def _remove_abandoned(run: _Run) -> None:
    for name in find_abandoned(run.service, datetime.now(UTC)):
        _clean_up(run, name)


def _clean_up(run: _Run, name: str) -> None:
    """Remove what carries a name; report what stays."""
    for problem in remove(run.service, name):
        run.failed += 1
        run.report(f"FAIL {'cleanup':28} of {name}: {problem}")


def _is(kind: type) -> Callable[[object], bool]:
    return lambda answer: isinstance(answer, kind)


def _equals(value: object) -> Callable[[object], bool]:
    return lambda answer: answer == value


def _at_least(least: int) -> Callable[[object], bool]:
    return lambda answer: isinstance(answer, int) and answer >= least
