"""Replayed players and the live market.

Owns what happens in the game: what simulated players do with the prices there are, and what
follows for portfolios, leaderboards, quests and events. Writes only through the service and holds no SQL.
"""

from core.installation import require_extra

require_extra("simulation")
