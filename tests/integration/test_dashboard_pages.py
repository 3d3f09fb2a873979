"""Tests of the Leaderboards and Portfolios pages, run by Streamlit's `AppTest` on a real database."""

import logging
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import SecretStr
from streamlit.testing.v1 import AppTest

from core import EnhancedDatabaseService, Settings, open_service
from core.errors import DatabaseUnavailable, PoolTimeout, QueryTimeout
from core.records import LeaderboardUpdate
from core.stack.ports import find_free_port
from dashboard import runtime, states
from dashboard.navigation import SCRIPTS
from dashboard.server import sign_in
from dashboard.server.access import Policy
from tests.game import SESSIONS, play_game
from tests.integration.pages import read_metrics, read_text

pytestmark = pytest.mark.usefixtures("released_pages")

SCRIPT = Path(__file__).parents[2] / "dashboard" / "app.py"
LEADERBOARDS, PORTFOLIOS = SCRIPTS["leaderboards"], SCRIPTS["portfolios"]
PAGES = (LEADERBOARDS, PORTFOLIOS)
TIMEOUT_SECONDS = 30


@pytest.fixture
def game(service: EnhancedDatabaseService) -> EnhancedDatabaseService:
    """Return a service with a finished game, which the pages use."""
    play_game(service)
    runtime.set_service(service)
    return service


@pytest.fixture
def empty(service: EnhancedDatabaseService) -> EnhancedDatabaseService:
    """Return a service on a migrated database without rows, which the pages use."""
    runtime.set_service(service)
    return service


@pytest.fixture
def unreachable(settings: Settings) -> Iterator[None]:
    """Let the pages use a service on a port where no server listens."""
    url = f"postgresql://nobody@127.0.0.1:{find_free_port()}/nothing"
    gone = settings.model_copy(update={"database_url": SecretStr(url), "enable_redis_cache": False})
    with open_service(gone) as service:
        runtime.set_service(service)
        yield


def open_page(view: str, **parameters: str) -> AppTest:
    """Open a page with these query parameters and run it."""
    test = AppTest.from_file(str(SCRIPT), default_timeout=TIMEOUT_SECONDS)
    test.run()
    test.switch_page(view)
    for name, value in parameters.items():
        test.query_params[name] = value
    return test.run()


def read_players(test: AppTest) -> list[str]:
    """Return the players in the first table of a page, in its order."""
    return list(test.dataframe[0].value["player"])


def find_error_id(message: str) -> str:
    """Return the error id at the end of a log message."""
    return message.rpartition(" ")[2]


# -- leaderboards -------------------------------------------------------------------------


def test_leaderboards_open_on_the_newest_session(game: EnhancedDatabaseService) -> None:
    """The page shows daily returns of the newest session, best first, a summary and changes of rank."""
    page = open_page(LEADERBOARDS)
    assert not page.exception
    assert read_players(page) == ["alice", "bob", "charlie"]
    figures = read_metrics(page)
    assert figures["Players with a score"] == "3"
    assert figures["Best score"] == "+3.11%"
    assert figures["Median score"] == "+0.95%"
    assert figures["Lowest score"] == "-2.10%"
    assert list(page.dataframe[0].value["moved"]) == ["↑ 2", "↓ 1", "↓ 1"]
    assert list(page.dataframe[0].value["change"]) == ["+3.51 pts", "+0.73 pts", "-2.15 pts"]
    assert list(page.dataframe[0].value["trend"].iloc[0]) == [1.2, -0.4, 3.11]
    assert "UTC" in read_text(page)


def test_leaderboards_use_the_query_parameters(game: EnhancedDatabaseService) -> None:
    """Category, session and page length come from the query parameters."""
    page = open_page(LEADERBOARDS, category="Total value", day="2013-02-28", top="10")
    assert read_players(page) == ["bob", "charlie", "alice"]
    assert read_metrics(page)["Best score"] == "$10,022.10"
    assert page.segmented_control(key="top").value == "10"
    assert not page.warning


def test_a_link_may_name_the_category_by_its_key(game: EnhancedDatabaseService) -> None:
    """The query parameter `category` may be a label or the category's key, such as `quests_completed`."""
    page = open_page(LEADERBOARDS, category="quests_completed")
    assert page.selectbox(key="category").value == "Quests completed"
    assert list(page.dataframe[0].value["rank"]) == [1, 2, 2]
    assert page.query_params["category"] == "Quests completed"


def test_unknown_query_parameters_are_named_and_replaced(game: EnhancedDatabaseService) -> None:
    """An unknown category, session or page length is named in a warning, and the default is shown."""
    page = open_page(LEADERBOARDS, category="luck", day="2013-02-30", top="7")
    shown = " ".join(warning.value for warning in page.warning)
    assert "luck" in shown
    assert r"2013\-02\-30" in shown
    assert "“7”" in shown
    assert read_players(page) == ["alice", "bob", "charlie"]


def test_a_session_without_scores_says_so(game: EnhancedDatabaseService) -> None:
    """A session that has only portfolios can be opened; the page says that its leaderboard has no scores."""
    alice = game.get_user_by_username("alice")
    today = game.get_current_portfolio(alice.id).session_date
    page = open_page(LEADERBOARDS, day=today.isoformat())
    assert "No scores on this leaderboard" in read_text(page)
    assert read_players(open_page(LEADERBOARDS)) == ["alice", "bob", "charlie"]


def test_choosing_a_category_changes_the_page(game: EnhancedDatabaseService) -> None:
    """If a visitor selects another category on the page, its scores are shown."""
    page = open_page(LEADERBOARDS)
    page.selectbox(key="category").select("Total value").run()
    assert read_metrics(page)["Best score"] == "$10,310.75"


def test_a_search_shows_the_player_and_the_neighbours(game: EnhancedDatabaseService) -> None:
    """A search for the first letters of a name, in upper or lower case, shows the rank and the neighbours."""
    page = open_page(LEADERBOARDS, find="Ch")
    assert [list(table.value["player"]) for table in page.dataframe] == [
        ["charlie"],
        ["alice", "bob", "charlie"],
    ]
    assert list(page.dataframe[0].value["rank"]) == [3]
    assert r"Around charlie, 3 of 3" in read_text(page)
    text = read_text(open_page(LEADERBOARDS, find="zorro"))
    assert "No player on this leaderboard starts with “zorro”" in text


def test_the_order_comes_from_the_query_parameters(game: EnhancedDatabaseService) -> None:
    """The query parameter `order` can sort by the lowest score or by the name."""
    assert read_players(open_page(LEADERBOARDS, order="Lowest first")) == ["charlie", "bob", "alice"]
    assert read_players(open_page(LEADERBOARDS, order="Name, Z to A")) == ["charlie", "bob", "alice"]


def test_any_two_sessions_are_compared(game: EnhancedDatabaseService) -> None:
    """Changes of rank and score are relative to the session in the query parameter `against`."""
    page = open_page(LEADERBOARDS, against="2013-02-27")
    assert list(page.dataframe[0].value["moved"]) == ["=", "↑ 1", "↓ 1"]
    assert list(page.dataframe[0].value["change"]) == ["+1.91 pts", "+1.10 pts", "-2.10 pts"]
    first = open_page(LEADERBOARDS, day="2013-02-27")
    assert list(first.dataframe[0].value["moved"]) == ["no rank before"] * 3


def test_a_period_shows_means(game: EnhancedDatabaseService) -> None:
    """With a period the table has the mean score of its sessions, and a search still limits the players."""
    page = open_page(LEADERBOARDS, period="7 sessions")
    assert read_players(page) == ["alice", "bob", "charlie"]
    assert list(page.dataframe[0].value["score"]) == ["+1.30%", "+0.34%", "-0.68%"]
    assert list(page.dataframe[0].value["sessions"]) == [3, 3, 3]
    assert read_players(open_page(LEADERBOARDS, period="7 sessions", find="b")) == ["bob"]


def test_a_disabled_filter_says_why(game: EnhancedDatabaseService) -> None:
    """The help text of a disabled filter says whether the period or the category disables it."""
    page = open_page(LEADERBOARDS, period="7 sessions")
    compared, order = page.selectbox(key="against"), page.selectbox(key="order")
    assert compared.disabled
    assert order.disabled
    assert (
        compared.help == order.help == "Not used for several sessions. Select the period “Session” to use it."
    )
    game.batch_update_leaderboard(
        "quests_completed", [LeaderboardUpdate(game.list_users()[0].id, Decimal(3))], SESSIONS[2]
    )
    total = open_page(LEADERBOARDS, category="Quests completed")
    assert not total.selectbox(key="order").disabled
    assert total.button_group(key="period").help.startswith("Not used for this category")


def test_a_leaderboard_has_pages(game: EnhancedDatabaseService) -> None:
    """The second page begins after the last rank of the first. A warning names a page that does not exist."""
    day = SESSIONS[2]
    users = [game.create_user(username=f"more{n:02}") for n in range(15)]
    updates = [LeaderboardUpdate(user.id, Decimal(n)) for n, user in enumerate(users)]
    game.batch_update_leaderboard("daily_returns", updates, day)
    page = open_page(LEADERBOARDS, top="10", page="2")
    assert list(page.dataframe[0].value["rank"]) == list(range(11, 19))
    assert "11 to 18 of 18" in read_text(page)
    page.selectbox(key="order").select("Lowest first").run()
    assert list(page.dataframe[0].value["rank"]) == list(range(18, 8, -1))
    far = open_page(LEADERBOARDS, top="10", page="9")
    assert "There is no page “9”" in " ".join(warning.value for warning in far.warning)
    assert len(read_players(far)) == 10


# -- portfolios ---------------------------------------------------------------------------


def test_a_portfolio_shows_the_newest_session(game: EnhancedDatabaseService) -> None:
    """The page shows the newest session's values, ranks, sessions and quests of one player."""
    page = open_page(PORTFOLIOS, player="alice", window="All")
    assert not page.exception
    figures = read_metrics(page)
    assert figures["Day change"] == "+$310.75"
    assert figures["Cash"] == "$2,500.00"
    assert figures["Invested"] == "$7,810.75"
    assert figures["Daily return"] == "1 of 3"
    assert figures["Sessions won"] == "2 of 3"
    assert list(page.dataframe[1].value["value"]) == [10_310.75, 9_959.75, 10_120.50]
    assert "Make 20 trades" in read_text(page)
    assert [bar.proto.text for bar in page.get("progress")] == ["13 of 20"]


def test_viewing_a_player_creates_no_portfolio(game: EnhancedDatabaseService) -> None:
    """Opening the page of a player without a session does not create a portfolio for today."""
    dave = game.get_user_by_username("dave")
    page = open_page(PORTFOLIOS, player="dave")
    assert "dave has not played a session yet" in read_text(page)
    assert game.get_portfolio_history(dave.id) == ()


def test_a_name_is_found_in_any_case(game: EnhancedDatabaseService) -> None:
    """The name `Alice` finds the player alice."""
    assert read_metrics(open_page(PORTFOLIOS, player="Alice"))["Day change"] == "+$310.75"


def test_a_prefix_lists_the_matching_players(game: EnhancedDatabaseService) -> None:
    """The first letters of a name show a button for each matching player; a click opens the player."""
    page = open_page(PORTFOLIOS, player="ch")
    page.button(key="choose-player-charlie").click().run()
    assert page.text_input(key="player").value == "charlie"
    assert read_metrics(page)["Day change"] == "-$210.40"


@pytest.mark.parametrize("name", ["zorro", "a" * 90, "%", "'; DROP TABLE users"])
def test_an_unknown_player_is_reported(game: EnhancedDatabaseService, name: str) -> None:
    """For an unknown name the page says that no player has this name, and raises no error."""
    page = open_page(PORTFOLIOS, player=name)
    assert not page.exception
    assert "No player is called" in read_text(page)


def test_portfolios_without_a_player_list_the_best(game: EnhancedDatabaseService) -> None:
    """Without a name the page shows a button for each of the best players."""
    page = open_page(PORTFOLIOS)
    offered = [button.label for button in page.button]
    assert offered == ["Refresh", "alice", "bob", "charlie"]


def test_two_players_stand_side_by_side(game: EnhancedDatabaseService) -> None:
    """A second player, chosen by the first letters, is shown beside the first one."""
    page = open_page(PORTFOLIOS, player="alice", rival="b", window="All")
    page.button(key="choose-rival-bob").click().run()
    assert page.text_input(key="rival").value == "bob"
    totals = [metric.value for metric in page.metric if metric.label == "Total gain"]
    assert totals == ["+$391.00", "+$102.10"]
    assert "Side by side" in read_text(page)


def test_a_player_is_not_compared_with_the_same_player(game: EnhancedDatabaseService) -> None:
    """If the second player is the first one or unknown, the page says so and still shows the first one."""
    page = open_page(PORTFOLIOS, player="alice", rival="ALICE")
    assert "both are the same" in page.info[0].value
    assert read_metrics(page)["Day change"] == "+$310.75"
    unknown = open_page(PORTFOLIOS, player="alice", rival="zorro")
    assert "No player is called “zorro”" in read_text(unknown)
    assert read_metrics(unknown)["Day change"] == "+$310.75"


def test_a_portfolio_has_curves_ranks_and_a_profile(game: EnhancedDatabaseService) -> None:
    """The page shows drawdown, holdings, ranks, a masked e-mail address, and the equity of two players.

    The two players are the selected player and the best player.
    """
    bob = game.get_user_by_username("bob")
    game.update_user_profile(bob.id, email="bob@example.com", preferences={"theme": "dark"})
    page = open_page(PORTFOLIOS, player="bob", board="Total value", window="All")
    text = read_text(page)
    for heading in ("Equity", "Drawdown", "Cash and invested", "Rank over time"):
        assert heading in text
    alternatives = " ".join(chart.proto.alt for chart in page.get("vega_lite_chart"))
    assert r"bob +$102.10, Leader of 1 Mar 2013: alice +$391.00" in alternatives
    best = "3 sessions with a score; best rank in a finished session: 1"
    assert f"Rank by total value in {best}" in alternatives
    assert r"b…@example\.com" in text
    assert "dark" not in text


def test_a_rival_without_a_session_is_named(game: EnhancedDatabaseService) -> None:
    """If the second player has no session, the page says so and still shows the first player."""
    page = open_page(PORTFOLIOS, player="alice", rival="dave")
    assert "dave has not played a session yet" in read_text(page)
    assert read_metrics(page)["Day change"] == "+$310.75"


@pytest.mark.parametrize("view", PAGES)
def test_a_page_names_its_refresh_interval(game: EnhancedDatabaseService, view: str) -> None:
    """Each page shows its refresh interval, or that the refresh is paused."""
    page = open_page(view, player="alice")
    assert "refreshes every 30 s" in read_text(page)
    page.toggle(key="live").set_value(False).run()
    text = read_text(page)
    assert "paused" in text
    assert "refreshes every" not in text


@pytest.mark.parametrize("view", PAGES)
def test_a_failed_refresh_keeps_the_page(
    game: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch, view: str
) -> None:
    """If a refresh fails, filters and typed text stay, and the page shows when it tries again."""
    page = open_page(view, player="alice", find="al")

    def fail(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("gone")

    for name in ("find_leaderboard_summary", "get_portfolio_history"):
        monkeypatch.setattr(game, name, fail)
    page.run()
    assert not page.exception
    assert "next try in 5 s" in read_text(page).lower()
    if view == LEADERBOARDS:
        # the page keeps the values of the last successful refresh
        assert read_metrics(page)["Best score"] == "+3.11%"
    assert page.text_input[0].value in {"alice", "al"}


def test_an_open_leaderboard_moves_to_a_new_session(game: EnhancedDatabaseService) -> None:
    """A page on the newest session shows a session that begins while the page is open."""
    page = open_page(LEADERBOARDS)
    bob = game.get_user_by_username("bob")
    monday = date(2013, 3, 4)
    game.get_current_portfolio(bob.id, monday)
    game.update_leaderboard_entry(bob.id, "daily_returns", Decimal(3), monday)
    runtime.get_cache().clear()
    page.run()
    assert "Newest (2013-03-04)" in page.selectbox(key="day").options
    assert read_players(page) == ["bob"]


def test_a_portfolio_may_have_years_without_a_session(game: EnhancedDatabaseService) -> None:
    """A portfolio with years between two sessions is shown, although one read of prices covers fewer days."""
    alice = game.get_user_by_username("alice")
    game.get_current_portfolio(alice.id)
    page = open_page(PORTFOLIOS, player="alice", window="All")
    assert "Something went wrong" not in read_text(page)
    assert "Equity" in read_text(page)
    assert len(page.dataframe[1].value) == 4


# -- empty, unreachable, slow, without tables ---------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_database_shows_the_next_step(empty: EnhancedDatabaseService, page: str) -> None:
    """On an empty database the page names the commands that load data."""
    text = read_text(open_page(page))
    assert "No sessions yet" in text
    assert "make seed" in text
    assert "echo-markets seed" in text


@pytest.mark.parametrize("page", PAGES)
def test_an_unreachable_database_shows_an_error_id(
    unreachable: None, page: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a database the page shows the next step and an error id that the log has too."""
    opened = open_page(page, player="alice")
    text = read_text(opened)
    assert not opened.exception
    assert "The database cannot be reached" in text
    assert "make status" in text
    assert "Traceback" not in text
    assert opened.button(key="retry").label == "Retry"
    logged = [message for message in caplog.messages if "error id" in message]
    assert find_error_id(logged[-1]) in text


def test_retry_shows_the_page_again(unreachable: None, settings: Settings) -> None:
    """When the database answers again, the Retry button shows the page."""
    page = open_page(LEADERBOARDS)
    with open_service(settings) as service:
        play_game(service)
        runtime.set_service(service)
        page.button(key="retry").click().run()
        assert read_players(page) == ["alice", "bob", "charlie"]


@pytest.mark.parametrize(
    ("error", "title"),
    [
        (PoolTimeout("no connection became free"), "The dashboard is busy"),
        (QueryTimeout("a statement ran too long"), "The database took too long to answer"),
    ],
)
def test_a_timeout_has_its_own_message(
    game: EnhancedDatabaseService, monkeypatch: pytest.MonkeyPatch, error: Exception, title: str
) -> None:
    """If the pool or a query times out, the page shows a message for this timeout, not for an outage."""

    def give_up(**_: object) -> None:
        raise error

    monkeypatch.setattr(game, "list_session_dates", give_up)
    page = open_page(LEADERBOARDS)
    assert not page.exception
    assert title in read_text(page)


def test_a_database_without_tables_names_the_migration(settings: Settings, empty_database_url: str) -> None:
    """Before the first migration the page names the command that migrates."""
    bare = settings.model_copy(update={"database_url": SecretStr(empty_database_url)})
    with open_service(bare) as service:
        runtime.set_service(service)
        text = read_text(open_page(LEADERBOARDS))
    assert "The database is not set up yet" in text
    assert "make migrate" in text


def test_an_unexpected_error_shows_an_id_and_no_cause(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error shows only an error id; the log has the id and the traceback."""

    def fail() -> None:
        from dashboard import states  # noqa: PLC0415  # Streamlit runs this body as a script of its own

        assert states.show_unexpected(ZeroDivisionError("a secret cause"))

    with caplog.at_level(logging.ERROR, logger=states.logger.name):
        page = AppTest.from_function(fail, default_timeout=TIMEOUT_SECONDS).run()
    text = read_text(page)
    assert "Something went wrong" in text
    assert "secret" not in text
    [record] = caplog.records
    assert find_error_id(record.getMessage()) in text
    assert record.exc_info


@pytest.mark.parametrize("is_operator", [False, True])
def test_only_operators_see_the_sign_in_warning(game: EnhancedDatabaseService, *, is_operator: bool) -> None:
    """Only an operator sees the warning that no sign-in is set, because others cannot change settings."""
    sign_in.set_policy(Policy(is_local_operator=is_operator))
    try:
        assert ("No sign-in" in read_text(open_page(LEADERBOARDS))) == is_operator
    finally:
        sign_in.set_policy(Policy())


def test_closed_filters_name_the_chosen_values(game: EnhancedDatabaseService) -> None:
    """The switch that opens the filters on small screens names the chosen values."""
    page = open_page(LEADERBOARDS, category="Total value", top="10", find="al")
    label = page.toggle(key="filters-open").label
    assert label.startswith("Filters: ")
    for chosen in ("Total value", "Session", "10", "al"):
        assert f" {chosen}" in label
    assert page.selectbox(key="category").value == "Total value"
