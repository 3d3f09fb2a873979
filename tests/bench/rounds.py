"""Run the rounds: in each round every contender runs every workload, in a rotated order.

Owns the order, and the check that all contenders return the same rows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg2
import redis

from core import Settings
from tests.bench.contenders.connections import open_redis
from tests.bench.contenders.contender import Contender, GameContender
from tests.bench.data import CATEGORY, SMALL_CATEGORY, Choices, describe_rows, player_id, quest_id
from tests.bench.figures import Turn
from tests.bench.line_up import WORKLOADS, Entrant
from tests.bench.workloads import MARKET_SYMBOLS, Stage, WorkloadUnsupported

ENTRY_FIELDS = ("rank", "user_id", "username", "score")
PORTFOLIO_FIELDS = ("id", "current_cash", "total_value", "day_change", "day_change_percent")
TICK_FIELDS = ("symbol", "price", "volume", "bid", "ask")
USER_FIELDS = ("id", "username", "name")
QUEST_FIELDS = ("id", "user_id", "current_progress", "status")


def run_rounds(
    settings: Settings,
    entrants: Sequence[Entrant],
    choices: Choices,
    *,
    workloads: Sequence[str],
    rounds: int,
    on_turn: Callable[[str, str, int], None],
) -> Iterator[Turn]:
    """Run every turn and yield its figures."""
    with _opened(settings, entrants) as clients:
        for number in range(rounds):
            for workload in workloads:
                _vacuum(settings)
                shift = number % len(entrants)
                for entrant in [*entrants[shift:], *entrants[:shift]]:
                    contender = entrant.contender
                    on_turn(workload, contender.name, number)
                    stage = Stage(contender, clients[entrant.number], choices)
                    with suppress(WorkloadUnsupported):
                        yield Turn(workload, contender.name, number, WORKLOADS[workload](stage))


def check_results(settings: Settings, entrants: Sequence[Entrant], choices: Choices) -> None:
    """Make every call with every contender, cold and warm; raise AssertionError if the results differ."""
    [player] = choices.pick_players(1)
    symbols = choices.pick_symbols(min(MARKET_SYMBOLS, choices.scale.symbols))
    updates, ticks = choices.make_updates(100), choices.make_ticks(500)
    with _opened(settings, entrants) as clients:
        for client in clients.values():
            client.flushdb()
        before = _compare_results(entrants, lambda c: _read_all(c, player, symbols))
        _compare_results(entrants, lambda c: c.update_portfolios(updates))
        _compare_results(entrants, lambda c: c.insert_ticks(ticks))
        games = [entrant for entrant in entrants if isinstance(entrant.contender, GameContender)]
        _compare_results(games, lambda c: _call_game(c, player_id(1), quest_id(1)))
        for entrant in entrants:
            entrant.contender.update_score(player, Decimal(54_321), CATEGORY)
            entrant.contender.update_portfolio(player, Decimal(12_345))
            entrant.contender.insert_tick(choices.make_ticks(1)[0])
        for entrant in entrants:
            clients[entrant.number].flushdb()
            entrant.contender.empty_local_cache()
        after = _compare_results(entrants, lambda c: _read_all(c, player, symbols))
    assert before != after, "the writes changed nothing"


def _read_all(contender: Contender, player: Any, symbols: Sequence[str]) -> list[Any]:
    return [
        (
            describe_rows(contender.get_leaderboard(), *ENTRY_FIELDS),
            describe_rows([contender.get_portfolio(player)], *PORTFOLIO_FIELDS),
            describe_rows(contender.get_market(symbols), *TICK_FIELDS),
        )
        for _ in ("cold", "warm")
    ]


def _call_game(game: Any, player: UUID, quest: UUID) -> list[Any]:
    """Return the results of the calls for single rows; a repeated call has the same result."""
    return [
        describe_rows([game.update_score(player, Decimal(45), SMALL_CATEGORY)], *ENTRY_FIELDS),
        describe_rows([game.get_rank(player, SMALL_CATEGORY)], *ENTRY_FIELDS),
        describe_rows([game.update_portfolio(player, Decimal(9_999))], "id", "total_value"),
        describe_rows([game.update_profile(player, "Player One")], *USER_FIELDS),
        describe_rows([game.update_quest(quest, Decimal(7))], *QUEST_FIELDS),
        describe_rows(game.search("player1"), *USER_FIELDS),
        describe_rows(game.search("Player O"), *USER_FIELDS),
    ]


def _compare_results(entrants: Sequence[Entrant], call: Callable[[Contender], Any]) -> Any:
    results = {entrant.contender.name: call(entrant.contender) for entrant in entrants}
    expected = next(iter(results.values()))
    different = [name for name, result in results.items() if result != expected]
    assert not different, f"other results than {next(iter(results))}: {', '.join(different)}"
    return expected


def _vacuum(settings: Settings) -> None:
    """VACUUM the tables and make a checkpoint, so that earlier turns do not slow down later turns."""
    with closing(psycopg2.connect(settings.database_url.get_secret_value())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("VACUUM portfolios, leaderboard_entries, leaderboard_counters, users, quests")
            cursor.execute("CHECKPOINT")


@contextmanager
def _opened(settings: Settings, entrants: Sequence[Entrant]) -> Iterator[dict[int, redis.Redis]]:
    clients = {entrant.number: open_redis(settings, number=entrant.number) for entrant in entrants}
    try:
        yield clients
    finally:
        for client in clients.values():
            client.close()
