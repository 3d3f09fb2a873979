"""The Market page: the prices of all symbols, the candles of one symbol, and market events."""
