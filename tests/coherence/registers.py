"""What the processes of a fleet write and read: registers of a game, in the service's words.

Owns which call writes which register, and which registers an answer shows. A key of the cache
holds several: a profile three, a board two for each player.
"""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from core import EnhancedDatabaseService

DAY = date(2026, 3, 2)
FIRST_TICK = datetime(2026, 3, 2, tzinfo=UTC)


class Game(NamedTuple):
    """What the operations work on: fresh for each history, so that none disturbs another."""

    name: str
    users: tuple[UUID, ...]

    def symbol(self, place: int) -> str:
        """Name one of the game's symbols."""
        return f"{self.name.upper()}{place}"


def list_registers(game: Game) -> list[str]:
    """Return every register of a game but the usernames, which creating it writes."""
    fields = ("name", "email", "score", "value", "price")
    return [f"{field}:{place}" for place in range(len(game.users)) for field in fields]


def write_register(service: EnhancedDatabaseService, game: Game, register: str, version: int) -> None:
    """Write one version of one register."""
    field, _, place = register.partition(":")
    user_id = game.users[int(place)]
    if field == "name":
        service.update_user_profile(user_id, name=f"{version}")
    elif field == "email":
        service.update_user_profile(user_id, email=f"v@{version}.example")
    elif field == "username":
        service.update_user_profile(user_id, username=f"{game.name}-{place}-{version}")
    elif field == "score":
        service.update_leaderboard_entry(user_id, game.name, Decimal(version), DAY)
    elif field == "value":
        service.update_portfolio_value(user_id, DAY, Decimal(version), Decimal(0))
    else:
        symbol, at = game.symbol(int(place)), FIRST_TICK + timedelta(seconds=version)
        service.insert_market_tick(symbol, Decimal(version), timestamp=at)


def read_registers(service: EnhancedDatabaseService, game: Game, what: str, argument: Any) -> dict[str, int]:
    """Read a user, leaderboard, portfolio or the market; return the versions that were seen."""
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
        places = {user_id: place for place, user_id in enumerate(game.users)}
        seen: dict[str, int] = {}
        for entry in service.get_leaderboard(game.name, DAY, argument):
            place = places[entry.user_id]
            seen |= {f"score:{place}": int(entry.score)}
            seen |= {f"username:{place}": int(entry.username.rsplit("-", 1)[1])}
        return seen
    if what == "portfolio":
        return {
            f"value:{argument}": int(service.get_current_portfolio(game.users[argument], DAY).total_value)
        }
    symbols = {game.symbol(place): place for place in range(len(game.users))}
    wanted = None if argument is None else [game.symbol(place) for place in argument]
    ticks = service.get_latest_market_data(wanted)
    return {f"price:{symbols[tick.symbol]}": int(tick.price) for tick in ticks if tick.symbol in symbols}
