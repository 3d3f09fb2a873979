"""Real prices, replayed players and the live market.

Owns what happens in the game: which prices there are, what simulated players do
with them and what follows for portfolios, leaderboards, quests and events.
Writes only through the service and holds no SQL.
"""

from core.installation import require_extra

require_extra("simulation")
