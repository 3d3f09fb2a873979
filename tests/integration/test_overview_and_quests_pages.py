"""The Overview and Quests pages in each state, run by Streamlit against a real database."""

import re
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from statistics import median
from typing import Any

import pytest
from pydantic import SecretStr

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import PoolTimeout, QueryTimeout
from core.stack.ports import find_free_port
from dashboard import runtime
from dashboard.formats import escape_markdown, format_duration
from tests.conftest import Execute
from tests.game import play_game
from tests.integration.pages import MARKET, OVERVIEW, QUESTS, open_page, prepare_page, read_metrics, read_text
from tests.market import open_market
from tests.scenarios import SCENARIOS, write_scenario

pytestmark = pytest.mark.usefixtures("released_pages")

PAGES = (OVERVIEW, MARKET, QUESTS)


@pytest.fixture
def game(service: EnhancedDatabaseService, execute: Execute) -> EnhancedDatabaseService:
    """Return a service on a finished game with prices and an event on its last day, which the pages use."""
    play_game(service)
    open_market(service)
    execute("UPDATE market_events SET created_at = '2013-03-01T20:00:00Z' WHERE title = 'FB fell 5.3%'")
    execute("UPDATE users SET last_active = '2013-03-01T20:00:00Z' WHERE username <> 'dave'")
    alice = service.get_user_by_username("alice")
    service.create_quest(
        alice.id,
        type="DAILY_GAIN",
        title="Gain 100 today",
        target_value=Decimal(100),
        reward_type="COINS",
        reward_value=Decimal(20),
        expires_at=datetime.now(UTC) + timedelta(hours=5),
    )
    runtime.set_service(service)
    return service


# -- overview -----------------------------------------------------------------------------


def test_the_overview_shows_the_newest_session(game: EnhancedDatabaseService) -> None:
    """The Overview page shows figures, leaders, movers and events of the newest session."""
    page = open_page(OVERVIEW)
    assert not page.exception
    assert [title.value for title in page.title] == ["Overview"]
    figures = read_metrics(page)
    assert (figures["Seen today"], figures["Played"], figures["Traded"]) == ("0", "3", "0")
    assert figures["Median return"] == "+0.95%"
    assert figures["Best return"] == "+3.11%"
    assert figures["Events of the day"] == "1"
    assert figures["Quests completed"] == "0"
    assert "[alice](portfolios?player=alice&window=Last%20session)" in read_text(page)
    movers, events, sessions = (table.value for table in page.dataframe)
    assert list(movers["symbol"]) == ["market?symbol=FB", "market?symbol=AAPL", "market?symbol=IBM"]
    assert list(events["title"]) == ["FB fell 5.3%"]
    assert list(sessions["played"]) == list(sessions["players"]) == [3, 3, 3]
    assert list(sessions["state"]) == ["finished"] * 3


def test_the_overview_without_prices_or_events_says_so(service: EnhancedDatabaseService) -> None:
    """If the database has no prices and no events, the Overview page says so."""
    play_game(service)
    runtime.set_service(service)
    page = open_page(OVERVIEW)
    assert not page.exception
    text = read_text(page)
    assert "No symbol has a price" in text
    assert "No symbol has moved far enough" in text


def test_a_symbol_without_a_price_of_the_day_is_no_mover(service: EnhancedDatabaseService) -> None:
    """The table of movers leaves out symbols without a price in the last 24 hours and says how many."""
    now = datetime.now(UTC)
    write_scenario(service, "players come and go", now)
    runtime.set_service(service)
    page = open_page(OVERVIEW)
    assert not page.exception
    fresh = {
        tick.symbol for tick in service.get_latest_market_data() if now - tick.timestamp < timedelta(days=1)
    }
    movers = page.dataframe[0].value
    assert fresh
    assert {link.rpartition("=")[2] for link in movers["symbol"]} == fresh
    assert movers["change"].abs().is_monotonic_decreasing
    assert "Left out: 1 symbol without a price in the 24 hours before." in read_text(page)


def test_the_best_return_equals_the_leaders(game: EnhancedDatabaseService) -> None:
    """Card, table and list of leaders show the new best return, even while an older summary is cached."""
    assert read_metrics(open_page(OVERVIEW))["Best return"] == "+3.11%"
    day = game.get_session_summaries(limit=1)[0].session_date
    bob = game.get_user_by_username("bob")
    for category, score in (("daily_returns", "4.50"), ("total_value", "10450.00")):
        game.update_leaderboard_entry(bob.id, category, Decimal(score), day)
    page = open_page(OVERVIEW)
    assert read_metrics(page)["Best return"] == "+4.50%"
    assert "1. [bob](portfolios?player=bob&window=Last%20session) · +4.50%" in read_text(page)
    assert float(page.dataframe[2].value["best"].iloc[0]) == 4.5


def test_a_long_list_of_events_shows_the_newest(game: EnhancedDatabaseService, execute: Execute) -> None:
    """If a day has 31 events, the table has the newest 20 and the page says so."""
    execute(
        "INSERT INTO market_events (type, title, created_at)"
        " SELECT 'T', 'Event ' || n, timestamptz '2013-03-01T12:00:00Z' + n * interval '1 minute'"
        " FROM generate_series(1, 30) AS n"
    )
    page = open_page(OVERVIEW)
    assert len(page.dataframe[1].value) == 20
    assert "The 20 newest of 31 events." in read_text(page)


def test_the_overview_without_returns_shows_dashes(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """If no player has a return, the card shows a dash and the page says so."""
    play_game(service)
    execute("DELETE FROM leaderboard_entries WHERE category = 'daily_returns'")
    runtime.set_service(service)
    page = open_page(OVERVIEW)
    assert not page.exception
    assert read_metrics(page)["Best return"] == "-"
    assert "No player has a return in this session yet" in read_text(page)


# -- quests -------------------------------------------------------------------------------


def test_running_quests_lower_no_completion_rate(game: EnhancedDatabaseService) -> None:
    """If no quest has ended, the completion rate is a dash, and only running quests are counted."""
    page = open_page(QUESTS)
    assert not page.exception
    figures = read_metrics(page)
    assert figures["Ended quests"] == "0"
    assert figures["Completion rate"] == "-"
    assert figures["Running now"] == "2"
    assert figures["Expiring"] == "1"
    progress, expiring = (table.value for table in page.dataframe)
    assert list(progress["type"]) == ["Daily gain", "Trades"]
    assert list(progress["step 0"]) == ["-", "-"]
    assert list(expiring["player"]) == ["portfolios?player=alice"]
    text = read_text(page)
    assert "**No quest with a deadline ended in this window**" in text
    assert "**Daily gain**: Be 100.00 above the starting cash at any time today." in text
    assert "No running quest is stuck" in text
    assert "No quest with a known time of completion was completed in this window" in text


def test_figures_of_the_quests_page_equal_the_rows(
    service: EnhancedDatabaseService, execute: Execute
) -> None:
    """For each window and type every figure of the Quests page equals one calculated from the quests."""
    now = datetime.now(UTC)
    write_scenario(service, "players come and go", now)
    runtime.set_service(service)
    rows = [
        dict(zip(("type", "status", "ended", "created", "reward", "value", "runs", "soon"), row, strict=True))
        for row in execute("""
            SELECT type, status, CASE WHEN status = 'COMPLETED' THEN completed_at ELSE expires_at END,
                created_at, reward_type, reward_value,
                status = 'ACTIVE' AND (expires_at IS NULL OR expires_at > now()),
                coalesce(expires_at <= now() + interval '1 day', false) FROM quests""")
    ]
    for window, days in (("All time", None), ("4 weeks", 28), ("7 days", 7)):
        for label, kind in (("All types", None), ("Milestone", "MILESTONE")):
            page = open_page(QUESTS, ended=window, quest=label)
            assert not page.exception
            since = date.min if days is None else now.date() - timedelta(days=days - 1)
            chosen = [row for row in rows if kind in (None, row["type"])]
            ended = [
                row
                for row in chosen
                if not row["runs"]
                and (days is None if row["ended"] is None else row["ended"].date() >= since)
            ]
            done = [row for row in ended if row["status"] == "COMPLETED"]
            figures, text = read_metrics(page), read_text(page)
            assert figures["Ended quests"] == str(len(ended))
            limited = [row for row in ended if row["type"] != "MILESTONE"]
            rate = f"{len([row for row in limited if row in done]) / len(limited):.1%}" if limited else "-"
            assert figures["Completion rate"] == {"0.0%": "0%", "100.0%": "100%"}.get(rate, rate)
            assert figures["Running now"] == str(sum(row["runs"] for row in chosen))
            assert figures["Expiring"] == str(sum(row["runs"] and row["soon"] for row in chosen))
            cash = sum(row["value"] for row in done if row["reward"] == "cash")
            assert figures.get("Cash", "$0.00") == f"${cash:.2f}"
            milestones = [row for row in chosen if row["type"] == "MILESTONE"]
            completed = sum(row in done for row in milestones)
            running = sum(row["runs"] for row in milestones)
            assert re.search(rf"Milestone: {completed} completed( since [\w ]+)?, {running} running", text)
            check_rates(text, None if kind else limited)
            times = sorted((row["ended"] - row["created"]).total_seconds() for row in done if row["ended"])
            if times:
                expected = format_duration(median(times))
                assert f"Median of {len(times)} completed quests: **{expected}**" in text
            else:
                assert "No quest with a known time of completion" in text


def check_rates(text: str, ended: list[dict[str, Any]] | None) -> None:
    """Assert that the page names the most and the least completed type, or none if `ended` is None."""
    if ended is None:
        assert "ompleted most often" not in text
        return
    counts = Counter(row["type"] for row in ended)
    done = Counter(row["type"] for row in ended if row["status"] == "COMPLETED")
    rates = {key: done[key] / count for key, count in counts.items() if count >= 10}
    if len(set(rates.values())) < 2:
        assert "ompleted most often" not in text
        return
    for extreme, words in ((max, "Completed most often: "), (min, "; least often: ")):
        key = extreme(rates, key=rates.__getitem__)
        label = key.replace("_", " ").capitalize()
        assert f"{words}**{label}**, {rates[key]:.0%} ({done[key]} of {counts[key]})" in text


@pytest.mark.parametrize("name", SCENARIOS)
def test_stuck_quests_are_shown_in_every_scenario(
    service: EnhancedDatabaseService, execute: Execute, name: str
) -> None:
    """The page counts the stuck quests that the service returns.

    If there are too few sessions, it does not compare how often players return.
    """
    write_scenario(service, name, datetime.now(UTC))
    # a quest of alice that is stuck: eight days old, without progress
    execute(
        "INSERT INTO quests (user_id, type, title, target_value, created_at)"
        " SELECT id, 'T', 'Wait', 1, now() - interval '8 days' FROM users WHERE username = 'alice'"
    )
    runtime.set_service(service)
    page = open_page(QUESTS, ended="All time")
    assert not page.exception
    text = read_text(page)
    if name == "nobody":
        assert "No quests yet" in text
        return
    found = re.search(
        r"\*\*(\d+) stuck quests?\*\* of (\d+) players?: (\d+) without progress, (\d+) behind, (\d+) on time",
        text,
    )
    assert found
    quests, players, *parts = map(int, found.groups())
    stuck = service.list_stuck_quests(limit=1_000).first
    assert (quests, players) == (len(stuck), len({item.quest.user_id for item in stuck}))
    assert parts == [
        sum(item.is_untouched for item in stuck),
        sum(item.is_behind for item in stuck),
        sum(not item.is_untouched and not item.is_behind for item in stuck),
    ]
    assert sum(parts) == quests
    compared = service.get_quest_returns(since=None, players=2_500)
    assert ("**Too little to compare**" in text) == bool(compared)
    assert ("No session of this window" in text) != bool(compared)


def test_quest_texts_are_shown_without_markdown(service: EnhancedDatabaseService) -> None:
    """A reward type and a quest type with Markdown characters are shown as plain text."""
    user = service.create_user(username="alice")
    kind = ":red[x](http://x.y)"
    quest = service.create_quest(
        user.id,
        type="*T*",
        title="**Bold**",
        target_value=Decimal(1),
        reward_type=kind,
        reward_value=Decimal(3),
    )
    service.update_quest_progress(quest.id, Decimal(1))
    runtime.set_service(service)
    page = open_page(QUESTS)
    assert not page.exception
    [label] = [metric.label for metric in page.metric if "red" in metric.label]
    assert label == escape_markdown(kind)
    assert page.dataframe[0].value["type"].tolist() == ["*t*"]


def test_a_link_shows_a_players_quests(game: EnhancedDatabaseService) -> None:
    """A link with a username, in upper or lower case, shows the player's quests, newest first."""
    page = open_page(QUESTS, player="Alice")
    assert list(page.dataframe[-1].value["title"]) == ["Gain 100 today", "Make 20 trades"]
    assert list(page.dataframe[-1].value["progress"]) == [0.0, 65.0]
    assert page.dataframe[-1].value["completed"].isna().all()
    assert page.dataframe[-1].proto.placeholder == "", "a missing time is an empty cell"


def test_a_prefix_offers_matching_players(game: EnhancedDatabaseService) -> None:
    """For a prefix the page offers matching players; choosing one without quests shows a message."""
    page = open_page(QUESTS, player="ch")
    page.button(key="choose-player-charlie").click().run()
    assert page.text_input(key="player").value == "charlie"
    assert "charlie has no quests yet" in read_text(page)


def test_an_unknown_username_is_named(game: EnhancedDatabaseService) -> None:
    """For an unknown username the page says so and still shows the figures of all quests."""
    page = open_page(QUESTS, player="zorro")
    assert "No player is called “zorro”" in read_text(page)
    assert read_metrics(page)["Running now"] == "2"


# -- empty, down, slow --------------------------------------------------------------------


@pytest.mark.parametrize(("page", "title"), [(OVERVIEW, "No sessions yet"), (QUESTS, "No quests yet")])
def test_an_empty_database_names_the_next_step(
    service: EnhancedDatabaseService, page: str, title: str
) -> None:
    """On an empty database the page shows the command that creates data."""
    runtime.set_service(service)
    text = read_text(open_page(page))
    assert title in text
    assert "make seed" in text


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_that_the_database_is_down(
    settings: Settings, page: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If the database is down, the page shows one message with an error id that is in the log."""
    url = f"postgresql://nobody@127.0.0.1:{find_free_port()}/nothing"
    gone = settings.model_copy(update={"database_url": SecretStr(url), "enable_redis_cache": False})
    with open_service(gone) as service:
        runtime.set_service(service)
        opened = open_page(page)
    text = read_text(opened)
    assert not opened.exception
    assert text.count("The database cannot be reached") == 1
    assert "Traceback" not in text
    logged = [message for message in caplog.messages if "error id" in message]
    assert logged[-1].rpartition(" ")[2] in text


@pytest.mark.parametrize("page", PAGES)
def test_pages_work_without_redis(
    settings: Settings, service: EnhancedDatabaseService, page: str, execute: Execute
) -> None:
    """Without Redis the page shows its tables and says that the cache is not used."""
    play_game(service)
    open_market(service)
    away = {"redis_url": SecretStr(f"redis://127.0.0.1:{find_free_port()}/0")}
    with open_service(settings.model_copy(update=away)) as alone:
        runtime.set_service(alone)
        opened = open_page(page)
    assert not opened.exception
    assert not opened.warning
    assert opened.dataframe
    assert "the cache is not used (Connection refused): values are correct" in read_text(opened)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("error", "title"),
    [
        (PoolTimeout("no connection became free"), "The dashboard is busy"),
        (QueryTimeout("a statement ran too long"), "The database took too long to answer"),
    ],
)
def test_a_page_shows_that_the_database_is_busy_or_slow(
    game: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch, page: str, error: Exception, title: str
) -> None:
    """If a read that the whole page needs times out, the page says that the database is busy or slow."""
    needed = {
        OVERVIEW: "get_session_summaries",
        MARKET: "get_latest_market_data",
        QUESTS: "get_quest_totals",
    }

    def give_up(**_: object) -> None:
        raise error

    monkeypatch.setattr(game, needed[page], give_up)
    opened = open_page(page)
    assert not opened.exception
    assert title in read_text(opened)


def test_last_known_values_show_their_time(
    game: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a section shows last known values, it also shows the time when they were read."""
    monkeypatch.setattr(game, "stale_seconds", lambda: 42.0)
    runtime.set_service(game)
    asked_at = datetime.now(UTC) - timedelta(seconds=42)
    moments = re.findall(r"Last known values of (\d\d:\d\d:\d\d) UTC", read_text(open_page(QUESTS)))
    assert len(moments) >= 5
    assert min(moments) >= f"{asked_at:%H:%M:%S}" or asked_at.date() != datetime.now(UTC).date()


def test_a_collapsed_table_is_not_sent(game: EnhancedDatabaseService) -> None:
    """The table of sessions is sent to the browser only after its expander is opened."""
    page = prepare_page(OVERVIEW).run()
    assert not page.exception
    assert [part.label for part in page.expander] == ["Table of the sessions"]
    closed = len(page.dataframe)
    page.session_state["sessions-table"] = True
    assert len(page.run().dataframe) == closed + 1
