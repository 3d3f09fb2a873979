"""Replayed players and the live market.

Owns what happens in the game: what simulated players buy at the given prices, and the portfolios,
leaderboards, quests and events that result. Writes only through the service and holds no SQL.
"""

from core.installation import require_extra

require_extra("simulation")
