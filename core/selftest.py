"""Runs every call of the service against the configured database.

Owns the order of the calls and the expected answers. Uses a temporary player, a temporary symbol and a
session in 1970. Removes all their rows at the end, even after a failure or an interruption. A call that would
change other rows runs in a transaction that is rolled back. Two audit events stay, because nothing can be
removed from the audit log.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any, TypeVar
from uuid import UUID, uuid4

from msgspec.structs import replace

from core.errors import (
    EchoMarketsError,
    EncryptionKeyMissing,
    MissingExtra,
    NotSupported,
    PlayersNotIsolated,
)
from core.records import (
    AuditEvent,
    CompletionTimes,
    LeaderboardUpdate,
    MarketEvent,
    Portfolio,
    PortfolioUpdate,
    Position,
    Quest,
    StuckQuests,
    Tick,
    Trade,
    User,
)
from core.selftest_cleanup import ACTOR, EVENT_TYPE, SESSION, build_symbol, find_abandoned, new_name, remove
from core.service import EnhancedDatabaseService

VALUE = Decimal("10500.00")
START = datetime.combine(SESSION, datetime.min.time(), UTC)

T = TypeVar("T")

# The name of a call, the call, and the expected answer. The answer is given as a value, as a type, or as a
# function that checks it.
Check = tuple[str, Callable[[], object], object]


class _Run:
    """One run of the self-test: its names, the records that it created, and the number of failed checks."""

    user: User
    quest: Quest
    event: MarketEvent

    def __init__(self, service: EnhancedDatabaseService, report: Callable[[str], object]) -> None:
        self.service = service
        self.report = report
        self.failed = 0
        self.name = new_name()
        self.symbol = build_symbol(self.name)

    def store(self, name: str, record: T) -> T:
        """Store a record as the attribute `name`, for later checks; return the record."""
        setattr(self, name, record)
        return record

    def check(self, name: str, call: Callable[[], object], expected: object) -> None:
        """Make a call, compare its answer with the expected one, and report the result as one line."""
        started = time.perf_counter()
        try:
            answer = call()
            problem = None if _is_expected(answer, expected) else f"answered {answer!r}"
        except (MissingExtra, EncryptionKeyMissing, NotSupported) as error:
            self.report(f"skip {name:28} {error}")
            return
        except Exception as error:
            # catch every error, so that the other calls are still tried
            problem = f"raised {type(error).__name__}: {error}"
        milliseconds = (time.perf_counter() - started) * 1000
        self.failed += problem is not None
        state = "ok  " if problem is None else "FAIL"
        self.report(f"{state} {name:28} {milliseconds:8.1f} ms{'' if problem is None else '  ' + problem}")


def _is_expected(answer: object, expected: object) -> bool:
    if isinstance(expected, type):
        return isinstance(answer, expected)
    return bool(expected(answer)) if callable(expected) else answer == expected


def _at_least(minimum: int) -> Callable[[object], bool]:
    return lambda answer: isinstance(answer, int) and answer >= minimum


def _has_row_of(user: User) -> Callable[[Iterable[Any]], bool]:
    return lambda rows: user.id in {row.user_id for row in rows}


def run_self_test(service: EnhancedDatabaseService, *, report: Callable[[str], object]) -> bool:
    """Make every call, report a line for each, and return whether all answers were as expected.

    The run removes all its rows, even after an error; only its audit events stay. If a run is killed, a later
    run removes the rows of the killed one.
    """
    run = _Run(service, report)
    try:
        for name in find_abandoned(service, datetime.now(UTC)):
            _clean_up(run, name)
        for name, call, expected in _list_checks(run):
            run.check(name, call, expected)
    except EchoMarketsError as error:
        run.failed += 1
        report(f"FAIL the rest was not tried: {error}")
    finally:
        _clean_up(run, run.name)
    report(f"failed: {run.failed}" if run.failed else "all calls passed")
    return not run.failed


def _clean_up(run: _Run, name: str) -> None:
    """Remove all rows of the self-test with this name. Report rows that cannot be removed as failures."""
    for problem in remove(run.service, name):
        run.failed += 1
        run.report(f"FAIL {'cleanup':28} of {name}: {problem}")


def _list_checks(run: _Run) -> Iterator[Check]:
    """Yield every check. A check may need rows that earlier checks have created."""
    yield "create_user", lambda: run.store("user", run.service.create_user(username=run.name)), User
    has_user = hasattr(run, "user")
    if has_user:
        yield from _list_player_checks(run)
    yield from _list_market_checks(run)
    if has_user:
        yield from _list_bulk_checks(run)
    yield from _list_operation_checks(run)
    yield "delete_market_ticks", lambda: run.service.delete_market_ticks(run.symbol), 2
    yield "delete_market_event", lambda: run.service.delete_market_event(run.event.id), True
    if has_user:
        yield "delete_user", lambda: run.service.delete_user(run.user.id), None


def _list_player_checks(run: _Run) -> Iterator[Check]:
    yield from _list_user_checks(run.service, run.user, run.name)
    yield from _list_portfolio_checks(run.service, run.user)
    yield from _list_leaderboard_checks(run.service, run.user, run.name)
    yield from _list_quest_checks(run)
    yield from _list_load_checks(run)


def _list_user_checks(service: EnhancedDatabaseService, user: User, name: str) -> Iterator[Check]:
    moment = datetime.now(UTC) + timedelta(seconds=1)
    yield "get_user_by_id", lambda: service.get_user_by_id(user.id), user
    yield "get_user_by_username", lambda: service.get_user_by_username(name), user
    yield "search_users", lambda: service.search_users(name), (user,)
    yield (
        "update_user_profile",
        lambda: service.update_user_profile(user.id, name="Self Test").name,
        "Self Test",
    )
    yield "list_users_by_email", lambda: _find_by_email(service, user), (user.id,)
    yield "touch_last_active", lambda: service.touch_last_active(user.id), None
    yield "batch_touch_last_active", lambda: service.batch_touch_last_active({user.id: moment}), 1
    yield "as_user", lambda: _read_as_player(service, user).id, user.id
    yield "transaction", lambda: _roll_back(service, user), "Self Test"
    yield "clear_user_cache", lambda: service.clear_user_cache(user.id), None


def _list_portfolio_checks(service: EnhancedDatabaseService, user: User) -> Iterator[Check]:
    key = (user.id, SESSION)
    update = PortfolioUpdate(*key, VALUE, Decimal(500))
    yield "find_portfolio", lambda: service.find_portfolio(*key), None
    yield "get_current_portfolio", lambda: service.get_current_portfolio(*key), Portfolio
    yield "get_portfolio", lambda: service.get_portfolio(*key).session_date, SESSION
    yield (
        "update_portfolio_value",
        lambda: service.update_portfolio_value(*key, VALUE, Decimal(500)).total_value,
        VALUE,
    )
    yield "batch_update_portfolios", lambda: service.batch_update_portfolios([update]).updated, 1
    yield (
        "get_portfolio_history",
        lambda: [portfolio.total_value for portfolio in service.get_portfolio_history(user.id)],
        [VALUE],
    )
    yield (
        "list_session_dates",
        lambda: SESSION in service.list_session_dates(before=SESSION + timedelta(days=1)),
        True,
    )


def _list_leaderboard_checks(service: EnhancedDatabaseService, user: User, category: str) -> Iterator[Check]:
    leaderboard = (category, SESSION)
    update, has_user = LeaderboardUpdate(user.id, VALUE), _has_row_of(user)
    yield (
        "update_leaderboard_entry",
        lambda: service.update_leaderboard_entry(user.id, category, VALUE, SESSION).score,
        VALUE,
    )
    yield (
        "batch_update_leaderboard",
        lambda: service.batch_update_leaderboard(category, [update], SESSION).updated,
        1,
    )
    yield "get_leaderboard", lambda: service.get_leaderboard(*leaderboard), has_user
    yield "get_leaderboard_around", lambda: service.get_leaderboard_around(user.id, *leaderboard), has_user
    yield "get_user_rank", lambda: service.get_user_rank(user.id, *leaderboard).user_id, user.id
    yield "count_leaderboard", lambda: service.count_leaderboard(*leaderboard), _at_least(1)
    yield "list_leaderboard", lambda: service.list_leaderboard(*leaderboard, prefix=user.username), has_user
    yield "stream_leaderboard", lambda: service.stream_leaderboard(*leaderboard), has_user
    yield "list_leaderboard_entries", lambda: service.list_leaderboard_entries(*leaderboard), has_user
    yield (
        "list_player_scores",
        lambda: service.list_player_scores([user.id], category, [SESSION], ranked=True),
        has_user,
    )
    yield (
        "find_leaderboard_summary",
        lambda: getattr(service.find_leaderboard_summary(*leaderboard), "players", 0),
        _at_least(1),
    )
    # compare only the days: a cached answer may be minutes old, and name the player of an earlier self-test
    yield (
        "get_period_leaderboard",
        lambda: service.get_period_leaderboard(*leaderboard, sessions=1).days,
        (SESSION,),
    )
    yield "list_leaderboard_dates", lambda: SESSION in service.list_leaderboard_dates(category), True
    yield (
        "get_market_returns",
        lambda: all(found.day == SESSION for found in service.get_market_returns(SESSION, SESSION)),
        True,
    )
    # check only the type: a cached answer may be 15 s old, and lack the new symbol
    yield "get_price_statistics", lambda: isinstance(service.get_price_statistics(), tuple), True
    before_all = datetime.min.replace(tzinfo=UTC)
    yield "list_prices_at", lambda: service.list_prices_at([("AAPL", before_all)]), (None,)
    yield "find_event_effect", lambda: service.find_event_effect(user.id) is None, True
    yield (
        "list_leaderboard_categories",
        lambda: category in service.list_leaderboard_categories(SESSION),
        True,
    )
    yield "close_session", lambda: service.close_session(SESSION), _at_least(1)


def _list_quest_checks(run: _Run) -> Iterator[Check]:
    service, user = run.service, run.user

    def create_quest() -> Quest:
        return run.store(
            "quest",
            service.create_quest(user.id, type="SELF_TEST", title="Self test", target_value=Decimal(1)),
        )

    yield "create_quest", create_quest, Quest
    yield "get_user_active_quests", lambda: service.get_user_active_quests(user.id) == (run.quest,), True
    yield (
        "update_quest_progress",
        lambda: service.update_quest_progress(run.quest.id, Decimal(1)).status,
        "COMPLETED",
    )
    yield "count_completed_quests", lambda: service.count_completed_quests([user.id]), {user.id: 1}
    yield (
        "get_user_quests",
        lambda: [quest.status for quest in service.get_user_quests(user.id)],
        ["COMPLETED"],
    )
    yield "expire_quests", lambda: _undo(service, service.expire_quests), _at_least(0)
    yield "get_quest_totals", service.get_quest_totals, tuple
    yield "list_expiring_quests", service.list_expiring_quests, tuple
    yield "list_quest_outcomes", service.list_quest_outcomes, tuple
    yield "get_completion_times", service.get_completion_times, CompletionTimes
    yield "get_quest_returns", lambda: service.get_quest_returns(players=10), tuple
    yield "list_stuck_quests", service.list_stuck_quests, StuckQuests
    yield "get_player_report", lambda: service.get_player_report(weeks=1).players, _at_least(0)
    yield "list_player_days", lambda: len(service.list_player_days(days=1)), 1
    yield "list_silent_players", lambda: service.list_silent_players(limit=1), tuple
    yield "stream_silent_players", lambda: list(islice(service.stream_silent_players(), 1)), list
    yield "count_silent_players", service.count_silent_players, _at_least(0)


def _list_load_checks(run: _Run) -> Iterator[Check]:
    service, user = run.service, run.user
    renamed = replace(user, name="Loaded")
    position = Position(user.id, SESSION, run.symbol, Decimal(2), Decimal(10))
    trade = Trade(uuid4(), user.id, SESSION, run.symbol, "BUY", Decimal(2), Decimal(10), START)
    event = MarketEvent(
        id=uuid4(),
        type=EVENT_TYPE,
        title=run.name,
        description=None,
        affected_symbols=(run.symbol,),
        impact_magnitude=None,
        sentiment="NEUTRAL",
        created_at=START,
    )

    def change_portfolio() -> int:
        [portfolio] = service.get_portfolio_history(user.id)
        return service.load_portfolios([replace(portfolio, total_value=VALUE + 1)])

    def change_entry() -> int:
        entry = service.get_user_rank(user.id, run.name, SESSION)
        return service.load_leaderboard_entries([replace(entry, score=VALUE + 1)])

    def change_quest() -> int:
        [quest] = service.get_user_quests(user.id)
        return service.load_quests([replace(quest, title="Loaded")])

    yield "load_users", lambda: service.load_users([renamed]), {user.username: user.id}
    yield "load_portfolios", change_portfolio, 1
    yield "load_positions", lambda: service.load_positions([position]), 1
    yield "list_positions", lambda: service.list_positions([user.id], SESSION), (position,)
    yield "load_trades", lambda: service.load_trades([trade]), 1
    yield "list_trades", lambda: service.list_trades([user.id], SESSION), (trade,)
    yield (
        "get_player_gains",
        lambda: [gain.bought for gain in service.get_player_gains(user.id, SESSION, SESSION).symbols],
        [Decimal(20)],
    )
    yield "load_leaderboard_entries", change_entry, 1
    yield "load_quests", change_quest, 1
    yield "load_market_events", lambda: service.load_market_events([event]), 1


def _list_market_checks(run: _Run) -> Iterator[Check]:
    service, symbol = run.service, run.symbol
    tick = Tick(symbol=symbol, timestamp=START, price=Decimal(10))
    earlier = replace(tick, timestamp=START - timedelta(days=1))
    end = START + timedelta(days=1)
    yield (
        "insert_market_tick",
        lambda: service.insert_market_tick(symbol, Decimal(10), timestamp=START),
        tick,
    )
    yield "insert_market_ticks", lambda: service.insert_market_ticks([tick]), 1
    yield "load_market_ticks", lambda: service.load_market_ticks([earlier]), 1
    yield "get_latest_market_data", lambda: service.get_latest_market_data([symbol]), (tick,)
    yield "list_market_ticks", lambda: service.list_market_ticks(symbol)[-1], tick
    yield "stream_market_ticks", lambda: list(service.stream_market_ticks(symbol))[-1], tick
    yield "update_symbol_currencies", lambda: service.update_symbol_currencies({symbol: "USD"}), 1
    yield "get_symbol_currencies", lambda: service.get_symbol_currencies()[symbol], "USD"
    yield "update_moved_weeks", lambda: service.update_moved_weeks({symbol: 3}), 1
    yield "get_moved_weeks", lambda: service.get_moved_weeks()[symbol], 3
    yield "get_price_history", lambda: len(service.get_price_history(symbol, START, end, "1d")), 1
    yield "get_sparklines", lambda: service.get_sparklines([symbol])[0].prices, (Decimal(10),) * 2
    yield "clear_market_data_cache", service.clear_market_data_cache, None
    yield (
        "create_market_event",
        lambda: run.store("event", service.create_market_event(type=EVENT_TYPE, title=run.name)),
        MarketEvent,
    )
    yield "get_recent_market_events", lambda: run.event in service.get_recent_market_events(1_000), True
    yield "list_market_events", lambda: service.list_market_events(1, type=EVENT_TYPE) == (run.event,), True
    yield "list_market_event_types", lambda: EVENT_TYPE in service.list_market_event_types(), True
    yield "stream_market_events", lambda: len(list(islice(service.stream_market_events(), 1))), 1


def _list_bulk_checks(run: _Run) -> Iterator[Check]:
    """Yield the checks of calls that list or stream the rows of all players.

    Lists of users and quests start just before the rows of this player, so that these rows come first.
    """
    service, user = run.service, run.user
    before, has_user = replace(user, id=UUID(int=user.id.int - 1)), _has_row_of(user)

    def find_quest(read: Callable[..., Iterable[Quest]]) -> bool:
        [quest] = service.get_user_quests(user.id)
        return next(iter(read(after=replace(quest, id=UUID(int=quest.id.int - 1))))) == quest

    yield "list_users", lambda: service.list_users(limit=1, after=before)[0].id, user.id
    yield "stream_users", lambda: next(service.stream_users(after=before)).id, user.id
    yield "list_portfolios", lambda: service.list_portfolios(SESSION), has_user
    yield "stream_portfolios", lambda: service.stream_portfolios(SESSION), has_user
    yield "stream_positions", lambda: service.stream_positions(SESSION), has_user
    yield "stream_trades", lambda: service.stream_trades(SESSION), has_user
    yield "list_quests", lambda: find_quest(service.list_quests), True
    yield "stream_quests", lambda: find_quest(service.stream_quests), True


def _list_operation_checks(run: _Run) -> Iterator[Check]:
    service = run.service
    minute_ago = datetime.now(UTC) - timedelta(minutes=1)
    yield "to_frame", lambda: len(service.to_frame((), kind=Tick)), 0
    yield "to_json", lambda: service.to_json(None), b"null"
    yield "get_session_summaries", lambda: len(service.get_session_summaries(limit=1)), 1
    yield "count_active_players", lambda: service.count_active_players(minute_ago), _at_least(1)
    yield "get_seen_players", lambda: service.get_seen_players().seen, _at_least(1)
    yield "count_undated_quests", service.count_undated_quests, _at_least(0)
    yield "invalidate_reports", service.invalidate_reports, None
    yield "maintain_partitions", lambda: _undo(service, lambda: service.maintain_partitions().dropped), ()
    yield "audited", lambda: _audit(service, run.name), "started"
    yield (
        "list_audit_events",
        lambda: {event.target: event.outcome for event in service.list_audit_events()}.get(run.name),
        "done",
    )
    yield "record_audit_event", lambda: _undo(service, lambda: _record_sign_in(service).outcome), "done"
    yield "acting_as", lambda: _undo_change(service, run.user), ("update", {"name": "Audited"})
    yield "list_audit_changes", lambda: len(service.list_audit_changes(row_key=run.user.id)), 0
    yield "stream_audit_changes", lambda: len(list(service.stream_audit_changes(row_key=run.user.id))), 0
    yield "seal_audit_log", lambda: _undo(service, lambda: service.seal_audit_log().events), _at_least(2)
    yield "verify_audit_log", lambda: service.verify_audit_log().broken, None
    yield "maintain_audit_log", lambda: _undo(service, lambda: service.maintain_audit_log().dropped), ()
    yield "stream_audit_events", lambda: len(list(islice(service.stream_audit_events(), 1))), 1
    yield "list_encryption_keys", service.list_encryption_keys, tuple
    yield (
        "reencrypt_users",
        lambda: _undo(service, lambda: service.reencrypt_users(limit=1).changed),
        _at_least(0),
    )
    yield "warm_cache", lambda: service.warm_cache(players=1), _at_least(1)
    yield "list_table_sizes", lambda: len(service.list_table_sizes()), _at_least(1)
    yield "list_unused_indexes", service.list_unused_indexes, tuple
    # the answer is None if the server lacks pg_stat_statements
    yield "list_slowest_statements", lambda: service.list_slowest_statements() or (), tuple
    yield "health", lambda: service.health().database, "healthy"
    yield "consistency_token", service.consistency_token, str
    yield "at_least", lambda: _read_at_least(service, run.user).username, run.user.username
    yield "replica_stats", service.replica_stats, tuple
    yield "pool_stats", lambda: service.pool_stats().pool_in_use, 0
    yield "stale_seconds", service.stale_seconds, None
    yield "cache_stats", lambda: service.cache_stats().state != "down", True


class _RolledBack(Exception):
    """Raised in a transaction to roll it back."""


def _undo(service: EnhancedDatabaseService, call: Callable[[], T]) -> T:
    """Make a call in a transaction, roll the transaction back, and return the answer of the call."""
    answers = []
    with suppress(_RolledBack), service.transaction():
        answers.append(call())
        raise _RolledBack
    return answers[0]


def _read_at_least(service: EnhancedDatabaseService, user: User) -> User:
    """Read the player inside `at_least`: even a replica must then return all changes up to now."""
    with service.at_least(service.consistency_token()):
        return service.get_user_by_id(user.id)


def _find_by_email(service: EnhancedDatabaseService, user: User) -> tuple[UUID, ...]:
    """Give the player an e-mail address, return the ids of the users with this address, and roll back."""
    email = f"{user.username}@example.com"

    def find() -> tuple[UUID, ...]:
        service.update_user_profile(user.id, email=email)
        return tuple(found.id for found in service.list_users_by_email(email))

    return _undo(service, find)


def _roll_back(service: EnhancedDatabaseService, user: User) -> str | None:
    """Rename the player in a transaction, roll it back, and return the name that is stored then."""
    _undo(service, lambda: service.update_user_profile(user.id, name="Rolled back"))
    return service.get_user_by_id(user.id).name


def _read_as_player(service: EnhancedDatabaseService, user: User) -> User:
    try:
        view = service.as_user(user.id)
    except PlayersNotIsolated:
        # a database with a single role does not support `as_user`
        return user
    return view.get_profile()


def _record_sign_in(service: EnhancedDatabaseService) -> AuditEvent:
    return service.record_audit_event(actor=ACTOR, action="sign_in", target="self-test")


def _undo_change(service: EnhancedDatabaseService, user: User) -> tuple[str, object]:
    """Rename the player as an actor, read the audit event of this change, and roll back.

    Returns the action and the new values in the event.
    """

    def rename() -> tuple[str, object]:
        service.update_user_profile(user.id, name="Audited")
        [event] = service.list_audit_changes(row_key=user.id)
        return event.action, event.after

    with service.acting_as(ACTOR):
        return _undo(service, rename)


def _audit(service: EnhancedDatabaseService, name: str) -> str:
    """Audit an action that does nothing. Return the outcome that its event has while the action runs."""
    with service.audited(actor=ACTOR, action="clear_cache", target=name) as event:
        return event.outcome
