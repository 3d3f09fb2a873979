"""Tests of the arguments of every public call of the service.

An invalid argument is named in the error, and equivalent values of other libraries (numpy, pandas) are
accepted. The tables below are compared with the signatures, so a new call or parameter has to be added to
them.
"""

import inspect
import math
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import IntEnum, StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import uuid_utils
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import InvalidInput
from core.records import LeaderboardUpdate, PortfolioUpdate, Tick, User
from core.testing import PostgresServer
from tests.conftest import created_database

ID = uuid.UUID("018f0000-0000-7000-8000-000000000001")
DAY = date(2026, 3, 2)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
WRONG = object()
# `Any`, because the tests pass numpy numbers, which the calls accept and the annotations exclude
ANY_PORTFOLIO: Any = PortfolioUpdate
ANY_SCORE: Any = LeaderboardUpdate

# The valid arguments of each call. A test replaces one of them with an invalid value.
VALID: dict[str, dict[str, Any]] = {
    "as_user": {"user_id": ID},
    "acting_as": {"actor": "alice", "request_id": None},
    "at_least": {"token": "7400000000000000000.00000001.16B374D848"},
    "audited": {"actor": "alice", "action": "clear_cache", "target": "bob"},
    "batch_touch_last_active": {"seen": {ID: NOON}},
    "batch_update_leaderboard": {"category": "c", "updates": (), "session_date": DAY},
    "batch_update_portfolios": {"updates": ()},
    "cache_stats": {},
    "clear_market_data_cache": {},
    "clear_user_cache": {"user_id": ID},
    "close": {"drain_seconds": 1.0},
    "close_session": {"session_date": DAY},
    "count_active_players": {"since": NOON},
    "count_completed_quests": {"user_ids": [ID], "excluding": [ID]},
    "count_undated_quests": {},
    "count_leaderboard": {"category": "c", "session_date": DAY, "prefix": ""},
    "create_market_event": {
        "type": "T",
        "title": "T",
        "description": None,
        "affected_symbols": (),
        "impact_magnitude": None,
        "sentiment": "NEUTRAL",
    },
    "create_quest": {
        "user_id": ID,
        "type": "T",
        "title": "T",
        "target_value": 1,
        "description": None,
        "reward_type": None,
        "reward_value": None,
        "expires_at": None,
    },
    "create_user": {"username": "alice", "name": None, "email": None, "preferences": None},
    "delete_market_event": {"event_id": ID},
    "delete_market_ticks": {"symbol": "AAPL"},
    "delete_user": {"user_id": ID},
    "expire_quests": {},
    "find_portfolio": {"user_id": ID, "session_date": DAY},
    "find_event_effect": {"event_id": ID, "window": timedelta(hours=1)},
    "find_leaderboard_summary": {"category": "c", "session_date": DAY, "bins": 5, "least_width": 1},
    "get_current_portfolio": {"user_id": ID, "session_date": DAY},
    "get_latest_market_data": {"symbols": ["AAPL"]},
    "get_leaderboard": {"category": "c", "session_date": DAY, "limit": 5, "offset": 0},
    "get_leaderboard_around": {"user_id": ID, "category": "c", "session_date": DAY, "radius": 1},
    "get_market_returns": {"start": DAY, "end": DAY},
    "count_silent_players": {"days": 5, "sessions": 1, "joined": DAY, "prefix": ""},
    "get_player_report": {"weeks": 5},
    "list_player_days": {"days": 5},
    "list_silent_players": {
        "days": 5,
        "sessions": 1,
        "joined": DAY,
        "prefix": "",
        "order": "username",
        "limit": 5,
        "after": None,
    },
    "stream_silent_players": {
        "days": 5,
        "sessions": 1,
        "joined": DAY,
        "prefix": "",
        "order": "username",
        "after": None,
    },
    "get_player_gains": {"user_id": ID, "start": DAY, "end": DAY},
    "get_period_leaderboard": {
        "category": "c",
        "session_date": DAY,
        "sessions": 7,
        "limit": 5,
        "base": Decimal(1),
    },
    "get_portfolio": {"user_id": ID, "session_date": DAY},
    "get_portfolio_history": {"user_id": ID, "limit": 5, "before": DAY},
    "get_price_statistics": {},
    "get_price_history": {"symbol": "AAPL", "start": NOON, "end": NOON + timedelta(days=1), "bucket": "1h"},
    "get_quest_totals": {"within": timedelta(days=1)},
    "get_recent_market_events": {"limit": 5},
    "get_seen_players": {"days": 7},
    "get_session_summaries": {"limit": 5, "returns": "a"},
    "get_sparklines": {"symbols": ["AAPL"], "points": 5, "step": "1h"},
    "get_moved_weeks": {},
    "get_symbol_currencies": {},
    "get_user_active_quests": {"user_id": ID},
    "get_user_by_id": {"user_id": ID},
    "get_user_by_username": {"username": "alice"},
    "get_user_quests": {"user_id": ID, "limit": 5, "after": None},
    "get_user_rank": {"user_id": ID, "category": "c", "session_date": DAY},
    "health": {"limit_seconds": 1.0},
    "insert_market_tick": {
        "symbol": "AAPL",
        "price": 1,
        "volume": 0,
        "bid": None,
        "ask": None,
        "change_24h": None,
        "change_percent_24h": None,
        "volatility": None,
        "timestamp": NOON,
    },
    "insert_market_ticks": {"ticks": ()},
    "invalidate_reports": {},
    "list_audit_changes": {"row_key": None, "limit": 5, "after": None},
    "list_audit_events": {"limit": 5, "after": None},
    "list_expiring_quests": {"limit": 5, "within": timedelta(days=1), "type": "T"},
    "list_leaderboard": {
        "category": "c",
        "session_date": DAY,
        "limit": 5,
        "offset": 0,
        "order": "rank",
        "prefix": "",
    },
    "list_leaderboard_entries": {"category": "c", "session_date": DAY, "limit": 5, "after": None},
    "list_leaderboard_categories": {"session_date": DAY},
    "list_leaderboard_dates": {"category": "c", "limit": 5, "before": DAY},
    "list_market_ticks": {"symbol": "A", "start": None, "end": None, "limit": 5, "after": None},
    "list_portfolios": {"session_date": DAY, "limit": 5, "after": None},
    "list_quests": {"limit": 5, "after": None},
    "list_users": {"limit": 5, "after": None},
    "list_market_event_types": {},
    "list_prices_at": {"places": [("AAPL", NOON)]},
    "list_market_events": {
        "limit": 5,
        "type": None,
        "sentiment": None,
        "symbol": None,
        "since": None,
        "until": None,
        "after": None,
        "before": None,
    },
    "list_player_scores": {"user_ids": [ID], "category": "c", "session_dates": [DAY], "ranked": False},
    "list_positions": {"user_ids": [ID], "session_date": DAY},
    "list_session_dates": {"limit": 5, "before": DAY},
    "list_quest_outcomes": {"since": DAY, "until": DAY},
    "get_completion_times": {"since": DAY, "until": DAY, "type": "T", "limit": 5},
    "get_quest_returns": {"since": DAY, "until": DAY, "players": 5},
    "list_stuck_quests": {"type": "T", "limit": 5},
    "list_slowest_statements": {"limit": 5},
    "list_table_sizes": {},
    "list_trades": {"user_ids": [ID], "session_date": DAY},
    "list_unused_indexes": {},
    "load_leaderboard_entries": {"entries": ()},
    "load_market_events": {"events": ()},
    "load_market_ticks": {"ticks": ()},
    "load_portfolios": {"portfolios": ()},
    "load_positions": {"positions": ()},
    "load_quests": {"quests": ()},
    "load_trades": {"trades": ()},
    "load_users": {"users": ()},
    "maintain_audit_log": {"months_ahead": 1, "keep_months": None},
    "maintain_partitions": {"months_ahead": 1, "keep": None},
    "pool_stats": {},
    "consistency_token": {},
    "replica_stats": {},
    "record_audit_event": {
        "actor": "alice",
        "action": "sign_in",
        "target": "dashboard",
        "outcome": "done",
        "detail": None,
    },
    "seal_audit_log": {},
    "list_encryption_keys": {},
    "list_users_by_email": {"email": "a@example.com", "limit": 5},
    "reencrypt_users": {"limit": 5, "after": ID},
    "search_users": {"prefix": "a", "limit": 5},
    "stale_seconds": {},
    "stream_audit_changes": {"row_key": None, "after": None},
    "stream_audit_events": {"after": None},
    "stream_market_events": {
        "type": None,
        "sentiment": None,
        "symbol": None,
        "since": None,
        "until": None,
        "after": None,
    },
    "stream_market_ticks": {"symbol": "A", "start": None, "end": None, "after": None},
    "stream_portfolios": {"session_date": DAY, "after": None},
    "stream_positions": {"session_date": DAY},
    "stream_quests": {"after": None},
    "stream_trades": {"session_date": DAY},
    "stream_users": {"after": None},
    "stream_leaderboard": {"category": "c", "session_date": DAY},
    "to_frame": {"records": (), "kind": None, "exact": False},
    "to_json": {"records": ()},
    "touch_last_active": {"user_id": ID},
    "transaction": {},
    "update_leaderboard_entry": {
        "user_id": ID,
        "category": "c",
        "score": 1,
        "session_date": DAY,
        "metadata": None,
    },
    "update_portfolio_value": {"user_id": ID, "session_date": DAY, "total_value": 1, "day_change": 0},
    "update_quest_progress": {"quest_id": ID, "progress": 1},
    "update_user_profile": {"user_id": ID, "username": "a", "name": "a", "email": None, "preferences": {}},
    "update_moved_weeks": {"weeks": {"AAPL": 3}},
    "update_symbol_currencies": {"currencies": {"AAPL": "USD"}},
    "verify_audit_log": {"anchor": None},
    "warm_cache": {"players": 5, "limits": (5,), "on_progress": None},
}
# Numeric parameters: NaN, infinity and True are also invalid values for them.
NUMBERS = {
    "total_value", "day_change", "score", "progress", "target_value", "reward_value", "impact_magnitude",
    "price", "bid", "ask", "change_24h", "change_percent_24h", "volatility", "least_width",
}  # fmt: skip  # several names a line, because the list is long


@pytest.fixture(scope="module")
def file_service(
    postgres_server: PostgresServer, template_database: str
) -> Iterator[EnhancedDatabaseService]:
    """Yield one service for all tests of this file that only make refused calls."""
    with created_database(postgres_server, template=template_database) as url:
        settings = Settings(database_url=SecretStr(url), enable_redis_cache=False)
        with open_service(settings) as service:
            yield service


def list_public_calls() -> list[str]:
    """Return the names of the service's public methods."""
    return sorted(
        name
        for name, member in inspect.getmembers(EnhancedDatabaseService, callable)
        if not name.startswith("_")
    )


def list_parameters(name: str) -> list[str]:
    """Return the parameters of a call. If it takes `**changes`, return the names in `VALID`."""
    signature = inspect.signature(getattr(EnhancedDatabaseService, name))
    found = [p for p in signature.parameters.values() if p.name != "self"]
    if any(p.kind is p.VAR_KEYWORD for p in found):
        return list(VALID[name])
    return [p.name for p in found]


def make_call(service: EnhancedDatabaseService, name: str, arguments: dict[str, Any]) -> None:
    """Call a method of the service. If it returns a context manager, enter it and leave it."""
    answer = getattr(service, name)(**arguments)
    if isinstance(answer, AbstractContextManager):
        with answer:
            pass


def test_every_call_and_parameter_is_in_the_table() -> None:
    """`VALID` lists every public call with all its parameters, so a new parameter must be added there."""
    assert sorted(VALID) == list_public_calls()
    for name, arguments in VALID.items():
        assert list(arguments) == list_parameters(name), name


def test_the_documents_list_every_call(repository: Path) -> None:
    """The table of areas in docs/service.md lists each public call exactly once."""
    document = (repository / "docs/service.md").read_text(encoding="utf-8")
    table = document[document.index("| area | calls |") :].split("\n\n")[0]
    assert sorted(re.findall(r"`(\w+)`", table)) == sorted(VALID)


WRONG_CASES = [
    (name, parameter, wrong)
    for name, arguments in VALID.items()
    for parameter in arguments
    for wrong in (WRONG, b"\xff", *((math.nan, math.inf, True) if parameter in NUMBERS else ()))
]


@pytest.mark.parametrize(("name", "parameter", "wrong"), WRONG_CASES)
def test_a_wrong_argument_is_named(
    file_service: EnhancedDatabaseService, name: str, parameter: str, wrong: object
) -> None:
    """An argument with an invalid value raises `InvalidInput`, and the message names the parameter."""
    with pytest.raises(InvalidInput) as caught:
        make_call(file_service, name, {**VALID[name], parameter: wrong})
    assert re.search(rf"\b{parameter}\b is ", str(caught.value)), caught.value


REQUIRED = [
    (name, parameter)
    for name, arguments in VALID.items()
    for parameter in arguments
    if inspect.signature(getattr(EnhancedDatabaseService, name)).parameters.get(parameter, None) is not None
    and inspect.signature(getattr(EnhancedDatabaseService, name)).parameters[parameter].default
    is inspect.Parameter.empty
    # None is documented as today's session
    and parameter != "session_date"
    # `to_json(None)` is valid: None is the result of a find_ call that found nothing
    and name != "to_json"
]


@pytest.mark.parametrize(("name", "parameter"), REQUIRED)
def test_a_required_argument_cannot_be_none(
    file_service: EnhancedDatabaseService, name: str, parameter: str
) -> None:
    """None for a required parameter raises `InvalidInput`, and the message names the parameter."""
    with pytest.raises(InvalidInput, match=rf"\b{parameter}\b is None"):
        make_call(file_service, name, {**VALID[name], parameter: None})


# -- values of other libraries ----------------------------------------------------------


class Category(StrEnum):
    """Leaderboard categories as an enumeration of the calling program."""

    VALUE = "total_value"


class PageSize(IntEnum):
    """Page sizes as an enumeration of the calling program."""

    SMALL = 5


class Money(Decimal):
    """A subclass of Decimal, as a money library may define it."""


@pytest.mark.parametrize("kind", [uuid_utils.UUID, lambda text: text, str.upper, uuid.UUID])
def test_a_user_id_of_any_type_finds_the_user(
    service: EnhancedDatabaseService, alice: User, kind: Callable[[str], Any]
) -> None:
    """A user id may be a `uuid.UUID`, a `uuid_utils.UUID`, or text in lower or upper case."""
    assert service.get_user_by_id(kind(str(alice.id))) == alice


@pytest.mark.parametrize(
    ("price", "stored"),
    [
        (np.float64(10.1), "10.1"),
        (np.float32(10.1), "10.1"),
        (np.int64(10), "10"),
        (Money("10.10"), "10.10"),
        (np.str_("10.1"), "10.1"),
        (PageSize.SMALL, "5"),
    ],
)
def test_a_price_of_any_type_is_stored_with_its_printed_digits(service: Any, price: Any, stored: str) -> None:
    """Numbers of numpy and of enumerations are stored with exactly the digits that `str` prints."""
    tick = service.insert_market_tick("AAPL", price, volume=np.int64(7))
    assert (tick.price, type(tick.price), str(tick.price)) == (Decimal(stored), Decimal, stored)
    assert (tick.volume, type(tick.volume)) == (7, int)
    service.clear_market_data_cache()
    assert service.get_latest_market_data(["AAPL"]) == (tick,)


def test_ticks_of_a_data_frame_are_accepted(service: EnhancedDatabaseService) -> None:
    """Ticks built from the rows of a DataFrame are stored, although their times are pandas timestamps."""
    frame = pd.DataFrame(
        {
            "symbol": ["AAPL", "IBM"],
            "timestamp": pd.to_datetime([NOON, NOON]),
            "price": [10.25, 11.5],
            "volume": [1, 2],
        }
    )
    ticks = [
        Tick(symbol=row.symbol, timestamp=row.timestamp, price=row.price, volume=row.volume)  # type: ignore[arg-type]  # as pandas has them
        for row in frame.itertuples()
    ]
    assert service.insert_market_ticks(ticks) == 2
    apple, ibm = service.get_latest_market_data()
    assert (apple.price, apple.volume, apple.timestamp) == (Decimal("10.25"), 1, NOON)
    assert type(ibm.timestamp) is datetime


def test_limits_categories_and_metadata_of_any_type_are_accepted(service: Any, alice: User) -> None:
    """Limits, categories, dates and metadata may have types of numpy, pandas or an enumeration.

    The results contain plain Python values.
    """
    metadata = {
        "trades": np.int64(3),
        "share": np.float64(0.5),
        "won": np.bool_(True),
        "list": (PageSize.SMALL,),
    }
    entry = service.update_leaderboard_entry(
        alice.id,
        Category.VALUE,
        np.float64(10.5),
        np.datetime64("2026-03-02"),
        metadata,
    )
    assert entry.metadata == {"trades": 3, "share": 0.5, "won": True, "list": (5,)}
    assert (entry.score, entry.session_date) == (Decimal("10.50"), DAY)
    assert service.get_leaderboard(Category.VALUE, DAY, PageSize.SMALL) == (entry,)
    assert service.get_leaderboard("total_value", DAY, np.int64(5)) == (entry,)
    scores = service.list_player_scores(
        np.array([alice.id]),
        "total_value",
        pd.Series([DAY]),
        ranked=np.bool_(True),
    )
    assert [score.rank for score in scores] == [1]


def test_batches_accept_numbers_of_any_type(service: Any, alice: User) -> None:
    """`batch_update_portfolios` and `batch_update_leaderboard` accept numpy numbers and other UUID types."""
    service.get_current_portfolio(alice.id, DAY)
    other = uuid_utils.UUID(str(alice.id))
    update = ANY_PORTFOLIO(other, DAY, np.float64(11_000.5), np.int64(1_000), np.float32(0.1))
    assert service.batch_update_portfolios([update]).updated == 1
    portfolio = service.get_current_portfolio(alice.id, DAY)
    assert (portfolio.total_value, portfolio.current_cash) == (Decimal("11000.50"), Decimal("0.10"))
    row = ANY_SCORE(other, np.float64(1.25))
    assert service.batch_update_leaderboard("c", [row], DAY).updated == 1
    assert service.get_user_rank(other, "c", DAY).score == Decimal("1.25")


REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "a datetime as a session": (
        lambda s: s.get_leaderboard("c", NOON),
        r"session_date is datetime.*\.date\(\)",
    ),
    "a Timestamp as a session": (
        lambda s: s.get_leaderboard("c", pd.Timestamp(NOON)),
        r"session_date is Timestamp.*\.date\(\)",
    ),
    "NaT as a session": (lambda s: s.get_leaderboard("c", pd.NaT), "session_date is NaT"),
    "NaT as a time": (lambda s: s.count_active_players(pd.NaT), "since is NaT"),
    "a Timestamp without a zone": (
        lambda s: s.count_active_players(pd.Timestamp("2026-03-02")),
        "since is Timestamp.*time zone",
    ),
    "datetime64, which has no zone": (
        lambda s: s.count_active_players(np.datetime64("2026-03-02T12:00")),
        "since is .*time zone",
    ),
    "a Timestamp in nanoseconds": (
        lambda s: s.insert_market_tick("A", 1, timestamp=pd.Timestamp("2026-03-02T12:00:00.000000001Z")),
        "timestamp is .*finer than a microsecond",
    ),
    "a Timedelta in nanoseconds": (lambda s: s.get_quest_totals(within=pd.Timedelta(1)), "within is"),
    "NA as a price": (lambda s: s.insert_market_tick("A", 1, bid=pd.NA), "bid is <NA>, which is no number"),
    "a fraction without an end": (
        lambda s: s.insert_market_tick("A", Fraction(1, 3)),
        r"price is Fraction\(1, 3\), which is no number",
    ),
    "a complex price": (lambda s: s.insert_market_tick("A", np.complex128(1)), "price is .*no number"),
    "NaN of numpy": (lambda s: s.insert_market_tick("A", np.float32("nan")), "price is .*give a number from"),
    "a bool of numpy as a number": (lambda s: s.get_leaderboard("c", DAY, np.bool_(1)), "limit is"),
    "a float of numpy as a limit": (lambda s: s.get_leaderboard("c", DAY, np.float64(5)), "limit is"),
    "1 as a flag": (lambda s: s.list_player_scores([ID], "c", [DAY], ranked=1), "ranked is 1"),
    "a decimal in a document": (
        lambda s: s.create_user(username="a", preferences={"a": [{"b": Decimal(1)}]}),
        r"preferences is .*where \['a'\]\[0\]\['b'\] is Decimal",
    ),
    "a text as ids": (lambda s: s.list_player_scores(str(ID), "c", [DAY]), "user_ids is"),
    "a mapping as symbols": (lambda s: s.get_latest_market_data({"AAPL": 1}), "symbols is"),
    "a wrong symbol of an event": (
        lambda s: s.create_market_event(type="T", title="T", affected_symbols=["aapl"]),
        "symbol is 'aapl'",
    ),
    "a limit of many": (lambda s: s.warm_cache(limits=[5, "x"]), "limits is 'x'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_ambiguous_argument_is_refused_with_the_reason(
    file_service: EnhancedDatabaseService, name: str
) -> None:
    """A value that has no exact meaning for its parameter raises `InvalidInput` with the reason.

    Examples are a datetime as a session date, a time without a zone, and nanoseconds.
    """
    call, message = REFUSED[name]
    with pytest.raises(InvalidInput, match=message):
        call(file_service)
