"""The database timeline that a process knows, and the hosts that it connects to."""

from types import SimpleNamespace

import pytest
from psycopg2.extensions import parse_dsn

from core.database.connector import Hosts
from core.failover import FormerPrimary, KnownTimeline, Timeline

FIRST, SECOND = Timeline("7.1.2", 1), Timeline("7.1.2", 2)
OTHER = Timeline("8.1.2", 1)


@pytest.mark.parametrize("timeline", [FIRST, SECOND, Timeline("7712873495018288674.16384.2200", 11)])
def test_a_timeline_is_parsed_from_its_text(timeline: Timeline) -> None:
    """Parsing the text of a timeline returns the timeline."""
    assert Timeline.parse(str(timeline)) == timeline


@pytest.mark.parametrize("text", [None, "", "7.1.2", "7.1.2:", ":1", "7.1.2:x", "7.1.2:1 "])
def test_an_invalid_text_is_no_timeline(text: str | None) -> None:
    """An invalid text, and the None that a standby returns, are no timeline."""
    assert Timeline.parse(text) is None


def test_listeners_get_each_change_once() -> None:
    """A listener is called once per change, with the timeline before the change."""
    known, heard = KnownTimeline(), list[Timeline | None]()
    known.call_on_change(heard.append)
    for timeline in (None, FIRST, FIRST, None, SECOND, SECOND, OTHER):
        known.record_connected(timeline)
    assert heard == [None, FIRST, SECOND]
    assert known.connected == OTHER


def test_a_former_primary_is_refused() -> None:
    """After a newer timeline was reported, a connection to a server on the older timeline is refused."""
    known, heard = KnownTimeline(), list[str]()
    known.call_on_newer(lambda: heard.append("newer"))
    known.record_connected(FIRST)
    known.record_newer(OTHER)
    assert heard == []
    known.record_newer(SECOND)
    known.record_newer(SECOND)
    assert heard == ["newer"]
    with pytest.raises(FormerPrimary, match="on timeline 1, and timeline 2 has been in use"):
        known.record_connected(FIRST)
    known.record_connected(SECOND)
    assert known.connected == SECOND


def test_a_listener_may_refuse_the_first_connection() -> None:
    """If a listener reports a newer timeline during the first connection, that connection is refused."""
    known = KnownTimeline()
    known.call_on_change(lambda _: known.record_newer(SECOND))
    with pytest.raises(FormerPrimary):
        known.record_connected(FIRST)
    assert known.connected is None


def test_learning_the_timeline_connects_once() -> None:
    """`learn` connects only if the process knows no timeline."""
    known, connected = KnownTimeline(), list[int]()

    def connect() -> None:
        connected.append(1)
        known.record_connected(FIRST)

    known.learn_with(connect)
    known.learn()
    known.learn()
    assert connected == [1]


class ConnectionStub:
    """A connection of which only the host and the port are known."""

    def __init__(self, host: str, port: int) -> None:
        self.info = SimpleNamespace(host=host, port=port)


@pytest.mark.parametrize(
    ("url", "refused", "kept"),
    [
        ("postgresql://a:1,b:2/d", ("a", 1), {"host": "b", "port": "2"}),
        ("postgresql://a,b/d?port=5", ("b", 5), {"host": "a", "port": "5"}),
        ("postgresql://a,b/d", ("a", 5432), {"host": "b"}),
        ("postgresql://a:1,a:2/d", ("a", 2), {"host": "a", "port": "1"}),
        ("postgresql:///d?hostaddr=::1,::2", ("::2", 5432), {"hostaddr": "::1"}),
        ("postgresql://a,b/d?hostaddr=::1,::2", ("a", 5432), {"host": "b", "hostaddr": "::2"}),
    ],
)
def test_a_refused_host_is_left_out(url: str, refused: tuple[str, int], kept: dict[str, str]) -> None:
    """The connection parameters have neither the refused host nor its address and port."""
    hosts = Hosts.of_url(parse_dsn(url)).without(ConnectionStub(*refused))  # type: ignore[arg-type]
    assert hosts.build_parameters() == kept
    assert hosts.choice == {"target_session_attrs": "read-write"}


def test_a_refused_host_is_left_out_of_a_url_with_target() -> None:
    """A refused host is left out even if the URL itself sets target_session_attrs."""
    url = "postgresql://a:1,b:2/d?target_session_attrs=read-write"
    hosts = Hosts.of_url(parse_dsn(url)).without(ConnectionStub("a", 1))  # type: ignore[arg-type]
    assert hosts.build_parameters() == {"host": "b", "port": "2"}
    assert hosts.choice == {}


def test_the_host_that_answered_is_tried_first() -> None:
    """The host that answered is first, and the other hosts follow in their order, each with its port."""
    url = "postgresql://a:1,b:2,c:3/d?target_session_attrs=any"
    hosts = Hosts.of_url(parse_dsn(url)).beginning_with(ConnectionStub("c", 3))  # type: ignore[arg-type]
    assert hosts.build_parameters() == {"host": "c,a,b", "port": "3,1,2"}


@pytest.mark.parametrize("url", ["postgresql://a:1/d", "postgresql:///d", "postgresql:///d?host=/tmp"])
def test_a_single_host_adds_no_parameters(url: str) -> None:
    """For a URL with one host or none, no connection parameters are added."""
    hosts = Hosts.of_url(parse_dsn(url))
    assert hosts.build_parameters() == {}
    assert hosts.choice == {}
