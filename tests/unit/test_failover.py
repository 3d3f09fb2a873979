"""What a process knows of its database's timeline, and which hosts it takes."""

from types import SimpleNamespace

import pytest
from psycopg2.extensions import parse_dsn

from core.database.connector import Hosts
from core.failover import FormerPrimary, KnownTimeline, Timeline

FIRST, SECOND = Timeline("7.1.2", 1), Timeline("7.1.2", 2)
OTHER = Timeline("8.1.2", 1)


@pytest.mark.parametrize("timeline", [FIRST, SECOND, Timeline("7712873495018288674.16384.2200", 11)])
def test_a_text_is_parsed(timeline: Timeline) -> None:
    """A timeline is parsed from the text that it is written as."""
    assert Timeline.parse(str(timeline)) == timeline


@pytest.mark.parametrize("text", [None, "", "7.1.2", "7.1.2:", ":1", "7.1.2:x", "7.1.2:1 "])
def test_another_text_is_none(text: str | None) -> None:
    """Bytes of another program, and the NULL of a standby, are no timeline."""
    assert Timeline.parse(text) is None


def test_each_change_is_told_once() -> None:
    """Listeners get the timeline before, in the order in which the process has seen them."""
    known, told = KnownTimeline(), list[Timeline | None]()
    known.call_on_change(told.append)
    for timeline in (None, FIRST, FIRST, None, SECOND, SECOND, OTHER):
        known.record_connected(timeline)
    assert told == [None, FIRST, SECOND]
    assert known.connected == OTHER


def test_a_former_primary_is_refused() -> None:
    """It is refused whether this process has seen the newer timeline or was told of it."""
    known, told = KnownTimeline(), list[str]()
    known.call_on_newer(lambda: told.append("newer"))
    known.record_connected(FIRST)
    known.record_newer(OTHER)
    assert told == []
    known.record_newer(SECOND)
    known.record_newer(SECOND)
    assert told == ["newer"]
    with pytest.raises(FormerPrimary, match="on timeline 1, and timeline 2 has been in use"):
        known.record_connected(FIRST)
    known.record_connected(SECOND)
    assert known.connected == SECOND


def test_the_cache_may_refuse_the_first_connection() -> None:
    """A listener may report a newer timeline while it is called for an older one."""
    known = KnownTimeline()
    known.call_on_change(lambda _: known.record_newer(SECOND))
    with pytest.raises(FormerPrimary):
        known.record_connected(FIRST)
    assert known.connected is None


def test_a_process_connects_once_to_learn() -> None:
    """A process that knows the timeline does not connect again."""
    known, connected = KnownTimeline(), list[int]()

    def connect() -> None:
        connected.append(1)
        known.record_connected(FIRST)

    known.learn_with(connect)
    known.learn()
    known.learn()
    assert connected == [1]


class Raw:
    """A connection to a host."""

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
    """Its address and its port are left out too."""
    hosts = Hosts.of_url(parse_dsn(url)).without(Raw(*refused))  # type: ignore[arg-type]
    assert hosts.build_parameters() == kept
    assert hosts.choice == {"target_session_attrs": "read-write"}


def test_a_refused_host_is_left_out_also_when_the_url_chooses() -> None:
    """Otherwise the URL would lead to it again and again."""
    url = "postgresql://a:1,b:2/d?target_session_attrs=read-write"
    hosts = Hosts.of_url(parse_dsn(url)).without(Raw("a", 1))  # type: ignore[arg-type]
    assert hosts.build_parameters() == {"host": "b", "port": "2"}
    assert hosts.choice == {}


def test_the_host_that_answered_is_tried_first() -> None:
    """The other hosts keep their order, and the URL still decides which servers are accepted."""
    url = "postgresql://a:1,b:2,c:3/d?target_session_attrs=any"
    hosts = Hosts.of_url(parse_dsn(url)).beginning_with(Raw("c", 3))  # type: ignore[arg-type]
    assert hosts.build_parameters() == {"host": "c,a,b", "port": "3,1,2"}


@pytest.mark.parametrize("url", ["postgresql://a:1/d", "postgresql:///d", "postgresql:///d?host=/tmp"])
def test_a_single_host_is_that_of_the_url(url: str) -> None:
    """For a single host no parameter is added."""
    hosts = Hosts.of_url(parse_dsn(url))
    assert hosts.build_parameters() == {}
    assert hosts.choice == {}
