"""The game scenarios in tests/scenarios.py have the properties that other tests need."""

from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pandas as pd
import pytest

from core import EnhancedDatabaseService
from tests.conftest import Execute
from tests.scenarios import SCENARIOS, SYMBOLS, read_table, write_scenario


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_is_consistent(name: str, service: EnhancedDatabaseService, execute: Execute) -> None:
    """A portfolio's value is cash plus positions at the last prices, and its cash follows from its trades."""
    write_scenario(service, name, now := datetime.now(UTC))
    portfolios, trades = read_table(execute, "portfolios"), read_table(execute, "trades")
    positions, ticks = read_table(execute, "positions"), read_table(execute, "ticks")
    scenario = SCENARIOS[name]
    assert len(read_table(execute, "users")) == scenario.players
    assert (now.date() in set(portfolios.session_date)) is (0 in scenario.ages)
    last = {
        (tick.timestamp.astimezone(UTC).date(), tick.symbol): tick.price
        for tick in _rows(ticks.sort_values("timestamp"))
    }
    for portfolio in _rows(portfolios):
        own_trades = _rows(trades[_of(trades, portfolio)])
        spent = sum(t.quantity * t.price * (1 if t.side == "BUY" else -1) for t in own_trades)
        assert portfolio.current_cash == 10_000 - spent
        held = sum(
            p.quantity * last[p.session_date, p.symbol] for p in _rows(positions[_of(positions, portfolio)])
        )
        assert portfolio.total_value == portfolio.current_cash + held


def test_players_come_and_go(service: EnhancedDatabaseService, execute: Execute) -> None:
    """The largest scenario has days without a session, every quest status, and players who never trade."""
    write_scenario(service, "players come and go", now := datetime.now(UTC))
    days = sorted(set(read_table(execute, "portfolios").session_date))
    assert days[-1] == now.date()
    assert max((after - before).days for before, after in pairwise(days)) == 4
    assert set(read_table(execute, "quests").status) == {"ACTIVE", "COMPLETED", "EXPIRED"}
    assert read_table(execute, "users").last_active.isna().sum() == 1
    assert 0 < len(set(read_table(execute, "trades").user_id)) < 12
    assert set(read_table(execute, "ticks").symbol) > set(SYMBOLS)
    assert max(read_table(execute, "market_events").created_at) <= now


def test_all_players_tie(service: EnhancedDatabaseService, execute: Execute) -> None:
    """In the scenario "ties" all players of a session end it with the same value."""
    write_scenario(service, "ties", datetime.now(UTC))
    values = read_table(execute, "portfolios").groupby("session_date").total_value.agg(["nunique", "size"])
    assert (values["nunique"] == 1).all()
    assert (values["size"] == 5).all()
    assert read_table(execute, "portfolios").total_value.map(lambda value: value != Decimal(10_000)).any()


def _rows(table: pd.DataFrame) -> list[Any]:
    return list(table.itertuples())


def _of(rows: pd.DataFrame, portfolio: Any) -> Any:
    return (rows.user_id == portfolio.user_id) & (rows.session_date == portfolio.session_date)
