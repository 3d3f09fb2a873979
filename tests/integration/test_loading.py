"""Bulk loads: which records are stored, which are refused with their position, and which rows are kept."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pandas as pd
import pytest
from msgspec.structs import replace

from core import EnhancedDatabaseService
from core.errors import ConstraintViolated, InvalidInput
from core.records import LeaderboardEntry, MarketEvent, Portfolio, Position, Quest, Tick, Trade, User, freeze
from core.service import loads
from core.service.writes import new_id
from tests.conftest import Execute

DAY = date(2026, 3, 2)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
CASH = Decimal("10000.00")
FAR = datetime(9999, 1, 1, tzinfo=UTC)
TABLES = {
    "load_users": "users",
    "load_market_ticks": "ticks",
    "load_portfolios": "portfolios",
    "load_positions": "positions",
    "load_trades": "trades",
    "load_leaderboard_entries": "leaderboard_entries",
    "load_quests": "quests",
    "load_market_events": "market_events",
}


def build_record(name: str, user_id: UUID) -> Any:
    """Return a valid record for a load method."""
    records: dict[str, Callable[[], Any]] = {
        "load_users": lambda: User(
            new_id(), "dave", "Dave", "dave@example.com", NOON, freeze({}), NOON, NOON
        ),
        "load_market_ticks": lambda: Tick(
            "AAPL", NOON, Decimal(10), 5, Decimal(9), Decimal(11), open=Decimal(9), high=Decimal(12),
            low=Decimal(8),
        ),
        "load_portfolios": lambda: Portfolio(
            new_id(), user_id, DAY, CASH, CASH, CASH, Decimal("0.00"), Decimal("0.00"), NOON, NOON
        ),
        "load_positions": lambda: Position(user_id, DAY, "AAPL", Decimal(3), Decimal(10)),
        "load_trades": lambda: Trade(new_id(), user_id, DAY, "AAPL", "BUY", Decimal(3), Decimal(10), NOON),
        "load_leaderboard_entries": lambda: LeaderboardEntry(
            new_id(), user_id, "", DAY, "c", CASH, 1, freeze({}), NOON
        ),
        "load_quests": lambda: Quest(
            new_id(), user_id, "T", "Title", None, CASH, Decimal("0.00"), "ACTIVE", "cash", CASH, NOON, FAR
        ),
        "load_market_events": lambda: MarketEvent(
            new_id(), "T", "Title", None, ("AAPL",), Decimal("1.00"), "NEUTRAL", NOON
        ),
    }  # fmt: skip  # several arguments a line, because the list is long
    return records[name]()


NAMES = {
    "load_users": "user",
    "load_market_ticks": "tick",
    "load_portfolios": "portfolio",
    "load_positions": "position",
    "load_trades": "trade",
    "load_leaderboard_entries": "entry",
    "load_quests": "quest",
    "load_market_events": "event",
}
WRONG = object()
NAN, HUGE = Decimal("NaN"), Decimal("1e30")
# Invalid values of each field, in addition to `WRONG`. PostgreSQL would store them, or refuse them with its
# own message.
REFUSED: dict[str, dict[str, tuple[Any, ...]]] = {
    "load_users": {
        "id": (None, "x"),
        "username": (None, "", " dave", "d" * 51, "a\x00"),
        "name": ("", "n" * 201, "\ud800"),
        "email": ("nobody",),
        "last_active": (FAR, NOON.replace(tzinfo=None)),
        "preferences": ({"a": Decimal(1)}, [], {"a": "\x00"}),
        "created_at": (None, FAR, pd.NaT),
        "updated_at": (None, FAR),
    },
    "load_market_ticks": {
        "symbol": (None, "aapl"),
        "timestamp": (None, FAR, NOON.replace(tzinfo=None)),
        "price": (None, Decimal(0), -1, NAN, HUGE, Decimal("1e-20000"), "x"),
        "volume": (None, -1, 2**63, 1.5),
        "bid": (0, NAN, 12),
        "ask": (0, NAN, 8),
        "change_24h": (NAN, HUGE),
        "change_percent_24h": (NAN,),
        "volatility": (-1, NAN),
        "open": (0, NAN),
        "high": (0, NAN, 9),
        "low": (0, NAN, 10),
    },
    "load_portfolios": {
        "id": (None,),
        "user_id": (None,),
        "session_date": (None, FAR.date(), NOON, "2026-03-02"),
        "starting_cash": (None, -1, NAN, HUGE),
        "current_cash": (None, -1, NAN, HUGE),
        "total_value": (None, -1, NAN, HUGE),
        "day_change": (None, NAN, HUGE),
        "day_change_percent": (None, NAN, HUGE),
        "created_at": (None, FAR),
        "updated_at": (None, FAR),
    },
    "load_positions": {
        "user_id": (None,),
        "session_date": (None, FAR.date()),
        "symbol": (None, "aapl"),
        "quantity": (None, 0, -1, NAN, HUGE),
        "average_price": (None, 0, NAN, HUGE),
    },
    "load_trades": {
        "id": (None,),
        "user_id": (None,),
        "session_date": (None, FAR.date()),
        "symbol": (None, "aapl"),
        "side": (None, "HOLD"),
        "quantity": (None, 0, -1, NAN, HUGE),
        "price": (None, 0, NAN, HUGE),
        "executed_at": (None, FAR),
    },
    "load_leaderboard_entries": {
        "id": (None,),
        "user_id": (None,),
        "session_date": (None, FAR.date()),
        "category": (None, "a b", "c" * 51),
        "score": (None, NAN, HUGE),
        "rank": (0, 2**31, 1.5),
        "metadata": ({"a": Decimal(1)}, []),
        "created_at": (None, FAR),
    },
    "load_quests": {
        "id": (None,),
        "user_id": (None,),
        "type": (None, "", "t" * 51),
        "title": (None, "t" * 201, "a\x00"),
        "description": ("", "d" * 10_001),
        "target_value": (None, Decimal(0), NAN, HUGE),
        "current_progress": (None, -1, NAN),
        "status": (None, "DONE"),
        "reward_type": ("", "t" * 51),
        "reward_value": (-1, NAN),
        "created_at": (None, FAR),
        "expires_at": (NOON.replace(tzinfo=None), pd.NaT),
        # invalid because the record is an active quest
        "completed_at": (NOON, FAR, pd.NaT),
    },
    "load_market_events": {
        "id": (None,),
        "type": (None, "t" * 51),
        "title": (None, "t" * 201),
        "description": ("",),
        "affected_symbols": (None, "AAPL", ("aapl",)),
        "impact_magnitude": (Decimal(1_000), NAN),
        "sentiment": (None, "GLAD"),
        "created_at": (None, FAR),
    },
}
# Names that the message uses for these fields: the element of a list, or either of two contradicting prices.
OTHER_NAMES = {"affected_symbols": "affected_symbols|symbol", "bid": "bid|ask", "open": "open|low|high"}


def test_the_table_of_invalid_values_has_every_field(alice: User) -> None:
    """`REFUSED` has every field that is loaded, that is, all but the username of a leaderboard entry."""
    for name, fields in REFUSED.items():
        record = build_record(name, alice.id)
        names = {field.name for field in msgspec.structs.fields(type(record))} - {"username"}
        assert set(fields) - {"username"} == names


@pytest.mark.parametrize("name", REFUSED)
def test_an_invalid_value_is_named_by_record_and_field(
    service: EnhancedDatabaseService, alice: User, execute: Execute, name: str
) -> None:
    """An invalid value in any field raises a short message with record and field, and stores no row."""
    load, table = getattr(service, name), TABLES[name]
    before = execute(f"SELECT * FROM {table}")
    for field, values in REFUSED[name].items():
        for value in (WRONG, *values):
            broken = replace(build_record(name, alice.id), **{field: value})
            with pytest.raises(InvalidInput) as caught:
                load([build_record(name, alice.id), broken])
            words = str(caught.value)
            pattern = rf"{NAMES[name]} 1: ({OTHER_NAMES.get(field, field)}) is "
            assert re.match(pattern, words), (field, value, words)
            assert len(words) < 400
    assert execute(f"SELECT * FROM {table}") == before


@pytest.mark.parametrize("name", ["load_portfolios", "load_leaderboard_entries", "load_quests"])
def test_a_record_of_a_missing_user_is_named(
    service: EnhancedDatabaseService, alice: User, execute: Execute, name: str
) -> None:
    """The error for a record of a missing user has position, user id, remedy and constraint."""
    nobody = UUID(int=7)
    records = [build_record(name, alice.id), replace(build_record(name, nobody), user_id=nobody)]
    with pytest.raises(ConstraintViolated, match=rf" 1 has user_id '{nobody}'.*create_user") as caught:
        getattr(service, name)(records)
    assert caught.value.key == {"user_id": str(nobody)}
    assert caught.value.constraint == f"{TABLES[name]}_user_id_fkey"
    assert execute(f"SELECT count(*) FROM {TABLES[name]}") == [(0,)]


@pytest.mark.parametrize("name", ["load_users", "load_portfolios", "load_leaderboard_entries"])
def test_an_id_of_another_row_is_named(
    service: EnhancedDatabaseService, alice: User, bob: User, name: str
) -> None:
    """A record with a new natural key and the id of an existing row raises an error with this id."""
    first = build_record(name, alice.id)
    getattr(service, name)([first])
    change = {"username": "erin"} if name == "load_users" else {"user_id": bob.id}
    with pytest.raises(ConstraintViolated, match=rf" 0 has id '{first.id}', which another") as caught:
        getattr(service, name)([replace(first, **change)])
    assert caught.value.key == {"id": str(first.id)}


@pytest.mark.parametrize("name", ["load_positions", "load_trades"])
def test_a_record_without_a_portfolio_is_named(
    service: EnhancedDatabaseService, alice: User, name: str
) -> None:
    """The error for a record without a portfolio has the user id, the session date and the remedy."""
    service.get_current_portfolio(alice.id, DAY)
    before = DAY - timedelta(days=1)
    records = [build_record(name, alice.id), replace(build_record(name, alice.id), session_date=before)]
    words = f" 1 has user_id '{alice.id}' and session_date '{before}', which no portfolio has; open it"
    with pytest.raises(ConstraintViolated, match=words):
        getattr(service, name)(records)


def test_chunks_before_an_invalid_record_are_kept(
    service: EnhancedDatabaseService, alice: User, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk of a load is committed separately unless the caller has a transaction."""
    monkeypatch.setattr(loads, "CHUNK_ROWS", 2)
    quests = [build_record("load_quests", alice.id) for _ in range(5)]
    quests[3] = replace(quests[3], title="")
    with pytest.raises(InvalidInput, match="quest 3: title is ''"), service.transaction():
        service.load_quests(quests)
    assert execute("SELECT count(*) FROM quests") == [(0,)]
    with pytest.raises(InvalidInput, match="quest 3: title is ''"):
        service.load_quests(quests)
    assert execute("SELECT count(*) FROM quests") == [(2,)]
    quests[3] = replace(quests[3], title="Title", user_id=UUID(int=7))
    with pytest.raises(ConstraintViolated, match="quest 3 has user_id"):
        service.load_quests(iter(quests))
    assert execute("SELECT count(*) FROM quests") == [(2,)]


@pytest.mark.parametrize(("given", "stored"), [("0.125", "0.12"), ("0.135", "0.14"), ("1.23456", "1.23")])
def test_a_load_rounds_like_every_other_write(
    service: EnhancedDatabaseService, alice: User, given: str, stored: str
) -> None:
    """Loads and single writes round half-even to two decimals, whereas PostgreSQL would round half up."""
    amount, expected = Decimal(given), Decimal(stored)
    entry = replace(build_record("load_leaderboard_entries", alice.id), score=amount)
    service.load_leaderboard_entries([entry])
    assert service.get_user_rank(alice.id, "c", DAY).score == expected
    assert service.update_leaderboard_entry(alice.id, "c", amount, DAY).score == expected
    portfolio = replace(build_record("load_portfolios", alice.id), day_change=amount, total_value=amount)
    service.load_portfolios([portfolio])
    found = service.get_portfolio(alice.id, DAY)
    assert (found.day_change, found.total_value) == (expected, expected)
    assert service.update_portfolio_value(alice.id, DAY, amount, amount).total_value == expected


def test_numpy_and_pandas_values_are_loaded(service: EnhancedDatabaseService, alice: User) -> None:
    """Values of numpy and pandas types are stored, and reads return plain Python values."""
    day: Any = np.datetime64("2026-03-02")
    portfolio = replace(
        build_record("load_portfolios", alice.id), id=str(new_id()), session_date=day,
        total_value=np.float64(10_500.5), created_at=pd.Timestamp(NOON),
    )  # fmt: skip  # several arguments a line, because the list is long
    assert service.load_portfolios([portfolio]) == 1
    assert service.get_portfolio(alice.id, DAY).total_value == Decimal("10500.50")
    entry = replace(
        build_record("load_leaderboard_entries", alice.id), rank=np.int64(1),
        metadata={"trades": np.int64(3)},
    )  # fmt: skip  # several arguments a line, because the list is long
    assert service.load_leaderboard_entries([entry]) == 1
    assert service.get_user_rank(alice.id, "c", DAY).metadata == {"trades": 3}


@pytest.mark.parametrize("name", TABLES)
def test_a_load_can_be_repeated(service: EnhancedDatabaseService, alice: User, name: str) -> None:
    """A second load of the same record, and a load without records, store no row."""
    record, load = build_record(name, alice.id), getattr(service, name)
    if name in {"load_positions", "load_trades"}:
        service.get_current_portfolio(alice.id, DAY)
    assert load([record]) in (1, {"dave": getattr(record, "id", None)})
    if name != "load_users":
        assert load([record, record]) == 0
    assert load(()) in (0, {})


def test_a_load_keeps_ids_and_creation_times(service: EnhancedDatabaseService, alice: User) -> None:
    """If a load updates an existing user, portfolio or entry, the row keeps its id and creation time."""
    later = NOON + timedelta(hours=1)
    user = build_record("load_users", alice.id)
    changed = replace(user, id=new_id(), name="David", created_at=later, last_active=later, updated_at=later)
    assert service.load_users([user]) == service.load_users([changed]) == {"dave": user.id}
    assert service.get_user_by_id(user.id) == replace(user, name="David", updated_at=later)
    portfolio = build_record("load_portfolios", alice.id)
    service.load_portfolios([portfolio])
    service.load_portfolios([replace(portfolio, id=new_id(), created_at=later, total_value=Decimal(5))])
    assert service.get_portfolio(alice.id, DAY) == replace(portfolio, total_value=Decimal("5.00"))
    entry = replace(build_record("load_leaderboard_entries", alice.id), username="ignored", rank=4)
    service.load_leaderboard_entries([entry])
    service.load_leaderboard_entries([replace(entry, id=new_id(), created_at=later, score=Decimal(5))])
    [found] = service.get_leaderboard("c", DAY)
    assert found == replace(entry, username="alice", rank=1, score=Decimal("5.00"))
    [score] = service.list_player_scores([alice.id], "c", [DAY], ranked=True)
    assert score.rank == 4, "the loaded rank"
