"""Test data of a market: ten days of prices of three symbols (IBM without bid and ask), and three events.

Owns the prices and events that tests of the dashboard expect.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from core import EnhancedDatabaseService
from core.records import Tick

LAST = datetime(2013, 3, 1, 21, tzinfo=UTC)
DAYS = 10
CLOSES = {"AAPL": 60, "FB": 20, "IBM": 200}
CHANGES = {"AAPL": "1.50", "FB": "-5.25", "IBM": None}
EVENTS = (
    ("PRICE_MOVE", "FB fell 5.3%", "FB", "NEGATIVE"),
    ("PRICE_MOVE", "AAPL rose 6.1%", "AAPL", "POSITIVE"),
    ("EARNINGS", "IBM earned much", "IBM", "POSITIVE"),
)


def build_tick(symbol: str, *, age_days: int) -> Tick:
    """Return the tick of a symbol `age_days` before the last day; the close rises by 1 every day."""
    close, change = Decimal(CLOSES[symbol] - age_days), CHANGES[symbol]
    is_quoted = symbol != "IBM"
    return Tick(
        symbol=symbol,
        timestamp=LAST - timedelta(days=age_days),
        price=close,
        volume=1_000_000,
        bid=close - Decimal("0.03") if is_quoted else None,
        ask=close + Decimal("0.03") if is_quoted else None,
        change_percent_24h=None if change is None else Decimal(change),
        volatility=Decimal("27.5") if is_quoted else None,
        open=close - 1,
        high=close + 2,
        low=close - 2,
    )


def open_market(service: EnhancedDatabaseService) -> None:
    """Write ten days of prices that end on `LAST`, and three events of today."""
    service.insert_market_ticks(build_tick(symbol, age_days=age) for symbol in CLOSES for age in range(DAYS))
    for kind, title, symbol, sentiment in EVENTS:
        service.create_market_event(
            type=kind,
            title=title,
            affected_symbols=[symbol],
            sentiment=sentiment,
            impact_magnitude=Decimal("5.30"),
        )
