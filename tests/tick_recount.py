"""Recomputes 24-hour change and volatility of every stored tick in Python, from times and prices only."""

from typing import Any

import numpy as np
import pandas as pd

from tests.conftest import Execute

DAY = pd.Timedelta("24h")


def recount_ticks(execute: Execute) -> pd.DataFrame:
    """Return all ticks with the 24-hour change and the volatility computed from their prices."""
    columns = ["symbol", "timestamp", "price", "volume", "change_24h", "change_percent_24h", "volatility"]
    rows = execute(f"SELECT {', '.join(columns)} FROM ticks ORDER BY symbol, timestamp")
    frame = pd.DataFrame(rows, columns=columns)
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], utc=True)
    for name in columns[2:]:
        frame[name] = frame[name].astype(float)
    return pd.concat([_recount(ticks) for _, ticks in frame.groupby("symbol")])


def _recount(ticks: pd.DataFrame) -> pd.DataFrame:
    times, prices = ticks["timestamp"].tolist(), ticks["price"].tolist()
    days = [time.date() for time in times]
    changes, percents, volatilities = [], [], []
    for time, price, day in zip(times, prices, days, strict=True):
        before = [old for at, old in zip(times, prices, strict=True) if at <= time - DAY]
        changes.append(price - before[-1] if before else None)
        percents.append((price / before[-1] - 1) * 100 if before else None)
        closes = {at: old for at, old in zip(days, prices, strict=True) if at < day}
        volatilities.append(deviate([*closes.values(), price]))
    return ticks.assign(
        expected_change=pd.Series(changes, ticks.index, dtype=float),
        expected_percent=pd.Series(percents, ticks.index, dtype=float),
        expected_volatility=pd.Series(volatilities, ticks.index, dtype=float),
    )


def deviate(closes: list[float]) -> float | None:
    """Return the annualised volatility of the last 20 daily log returns in percent; None with fewer."""
    returns = np.diff(np.log(closes[-21:]))
    return None if len(returns) < 20 else float(np.std(returns, ddof=1) * np.sqrt(252) * 100)


def assert_ticks_add_up(ticks: Any) -> None:
    """Assert that the stored values equal the recomputed ones, including the missing values."""
    for stored, expected in (
        ("change_24h", "expected_change"),
        ("change_percent_24h", "expected_percent"),
        ("volatility", "expected_volatility"),
    ):
        np.testing.assert_allclose(ticks[stored], ticks[expected], rtol=0, atol=0.00006, err_msg=stored)
