"""Market: all symbols, the candles of one, and market events."""
