"""Simulates the game: players who trade in past sessions at imported prices, and a live market.

`replay` plays past sessions, `simulator` runs the live market, and `catch_up` plays the days between the two.
Their results are portfolios, trades, leaderboard entries, quests and market events. Writes only through the
service, and contains no SQL.
"""

from core.installation import require_extra

require_extra("simulation")
