"""The registers of a game, which the processes of a fleet write and read.

A register is one value with a version, such as `score:0`, the score of player 0. Owns which call of the
service writes a register, and which registers a call returns. One cache key holds several registers: that of
a profile three, that of a leaderboard two for each player.
"""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from core import EnhancedDatabaseService

DAY = date(2026, 3, 2)
FIRST_TICK = datetime(2026, 3, 2, tzinfo=UTC)


class Game(NamedTuple):
    """A name and its players; each history has its own game, so that histories do not affect each other."""

    name: str
    users: tuple[UUID, ...]

    def symbol(self, index: int) -> str:
        """Return the symbol with an index."""
        return f"{self.name.upper()}{index}"


def list_registers(game: Game) -> list[str]:
    """Return every register except the usernames, which are written when the players are created."""
    fields = ("name", "email", "score", "value", "price")
    return [f"{field}:{index}" for index in range(len(game.users)) for field in fields]


def write_register(service: EnhancedDatabaseService, game: Game, register: str, version: int) -> None:
    """Write one version of a register."""
    field, _, index = register.partition(":")
    user_id = game.users[int(index)]
    if field == "name":
        service.update_user_profile(user_id, name=f"{version}")
    elif field == "email":
        service.update_user_profile(user_id, email=f"v@{version}.example")
    elif field == "username":
        service.update_user_profile(user_id, username=f"{game.name}-{index}-{version}")
    elif field == "score":
        service.update_leaderboard_entry(user_id, game.name, Decimal(version), DAY)
    elif field == "value":
        service.update_portfolio_value(user_id, DAY, Decimal(version), Decimal(0))
    else:
        symbol, at = game.symbol(int(index)), FIRST_TICK + timedelta(seconds=version)
        service.insert_market_tick(symbol, Decimal(version), timestamp=at)


def read_registers(service: EnhancedDatabaseService, game: Game, what: str, argument: Any) -> dict[str, int]:
    """Read a user, leaderboard, portfolio or the market; return the version of each register."""
    if what == "user":
        user = service.get_user_by_id(game.users[argument])
        assert user.name
        assert user.email
        return {
            f"name:{argument}": int(user.name),
            f"email:{argument}": int(user.email.split("@")[1].split(".")[0]),
            f"username:{argument}": int(user.username.rsplit("-", 1)[1]),
        }
    if what == "leaderboard":
        indexes = {user_id: index for index, user_id in enumerate(game.users)}
        seen: dict[str, int] = {}
        for entry in service.get_leaderboard(game.name, DAY, argument):
            index = indexes[entry.user_id]
            seen |= {f"score:{index}": int(entry.score)}
            seen |= {f"username:{index}": int(entry.username.rsplit("-", 1)[1])}
        return seen
    if what == "portfolio":
        return {
            f"value:{argument}": int(service.get_current_portfolio(game.users[argument], DAY).total_value)
        }
    symbols = {game.symbol(index): index for index in range(len(game.users))}
    wanted = None if argument is None else [game.symbol(index) for index in argument]
    ticks = service.get_latest_market_data(wanted)
    return {f"price:{symbols[tick.symbol]}": int(tick.price) for tick in ticks if tick.symbol in symbols}
