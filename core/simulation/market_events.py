"""Market events for large price moves.

Decides which moves are events, and composes the title and the description of each event. Writes nothing to
the database.
"""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from core.records import MarketEvent
from core.service.argument_checks import MAX_IMPACT
from core.simulation.amounts import PRICE_UNITS, divide_whole, to_money, to_price
from core.simulation.history import PriceHistory
from core.simulation.identifiers import Kind, hash_texts, make_ids
from core.simulation.trading_hours import close_of

EVENT_TYPE: Final = "PRICE_MOVE"

THRESHOLD_PERCENT: Final = 5
"""A move larger than this is an event. A move of exactly this size is not an event."""

PREVIOUS_CLOSE: Final = "the previous close"
"""The words in the description of an event that name the price before the move.

In the live market, this price is the last price before midnight UTC.
"""

SMALL_PRICE: Final = Decimal("0.1")
"""Prices below this are shown with four significant digits, others with two decimal places."""


class PriceMove(NamedTuple):
    """The price of a symbol before and after a move, in units; a price of 1.00 is `price_units` units."""

    symbol: str
    before: int
    after: int
    price_units: int = PRICE_UNITS

    @property
    def is_event(self) -> bool:
        """Whether the move is larger than THRESHOLD_PERCENT. The comparison of integers is exact."""
        return abs(self.after - self.before) * 100 > self.before * THRESHOLD_PERCENT

    @property
    def hundredths(self) -> int:
        """The move in hundredths of a percent, rounded."""
        return divide_whole((self.after - self.before) * 10_000, self.before)

    @property
    def title(self) -> str:
        """The title of the event, such as "AAPL rose 7.2%"."""
        verb = "rose" if self.after > self.before else "fell"
        return f"{self.symbol} {verb} {abs(self.hundredths) / 100:.1f}%"

    @property
    def impact(self) -> Decimal:
        """The move in percent, negative for a fall, at most MAX_IMPACT. The title has the true size."""
        return min(to_money(self.hundredths), MAX_IMPACT)

    @property
    def sentiment(self) -> str:
        """POSITIVE for a rise, NEGATIVE for a fall."""
        return "POSITIVE" if self.after > self.before else "NEGATIVE"

    @property
    def description(self) -> str:
        """The description of the event: a sentence with both prices."""
        return (
            f"{self.symbol} moved from {self._format(self.before)} to"
            f" {self._format(self.after)} since {PREVIOUS_CLOSE}."
        )

    def _format(self, units: int) -> str:
        price = to_price(units, self.price_units)
        return f"{price:.2f}" if price >= SMALL_PRICE else f"{price:.4g}"


def list_events(history: PriceHistory, row: int) -> Iterator[MarketEvent]:
    """Yield an event for each symbol with a large move from its previous close to its close in this row."""
    if row == 0:
        return
    previous, closes = history.carried[row - 1].tolist(), history.closes[row].tolist()
    for symbol, before, after in zip(history.symbols, previous, closes, strict=True):
        move = PriceMove(symbol, before, after, history.price_units)
        if before and after and move.is_event:
            yield build_event(move, close_of(history.days[row]))


def build_event(move: PriceMove, moment: datetime) -> MarketEvent:
    """Return the market event for a move."""
    # the seed of the id is always 0, because an event depends only on prices and not on the seed of a replay
    return MarketEvent(
        id=make_ids(Kind.PRICE_MOVE, seed=0, when=moment, keys=hash_texts([move.symbol]))[0],
        type=EVENT_TYPE,
        title=move.title,
        description=move.description,
        affected_symbols=(move.symbol,),
        impact_magnitude=move.impact,
        sentiment=move.sentiment,
        created_at=moment,
    )
