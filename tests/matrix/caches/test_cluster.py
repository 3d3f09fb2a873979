"""A cluster: refused with a message that names it, or used through the slot of a hash tag."""

import pytest

from core.settings.texts import LOOPBACK
from tests.matrix.caches.conftest import MakeServer
from tests.matrix.caches.couple import Couple, find_servers, go_on, make_settings
from tests.matrix.caches.servers import RedisServer
from tests.patience import wait_until

SLOTS = 16_384
TAG = "{echo}:"


# A node is given up after this time.
NODE_TIMEOUT_MILLISECONDS = 1_000


def make_node(make_server: MakeServer, first: int, last: int) -> RedisServer:
    """Start a node that holds a range of slots."""
    options = ["--cluster-config-file", "nodes.conf", "--repl-diskless-sync-delay", "0"]
    options += ["--cluster-node-timeout", str(NODE_TIMEOUT_MILLISECONDS)]
    node = make_server("--cluster-enabled", "yes", *options)
    if last >= first:
        node.run("CLUSTER", "ADDSLOTSRANGE", first, last)
    return node


def wait_for_cluster(*nodes: RedisServer) -> None:
    """Return once every node serves."""
    for node in nodes:
        wait_until(
            lambda node=node: b"cluster_state:ok" in node.run("CLUSTER", "INFO"),  # type: ignore[misc]  # bound at once
            "the cluster serves",
            20,
        )


@pytest.fixture
def lone_node(make_server: MakeServer) -> RedisServer:
    """A cluster of one node, which holds every slot."""
    node = make_node(make_server, 0, SLOTS - 1)
    wait_for_cluster(node)
    return node


@pytest.fixture
def two_nodes(make_server: MakeServer) -> tuple[RedisServer, RedisServer]:
    """A cluster of two nodes; the first one holds the slot of the tag."""
    slot = SLOTS // 2
    nodes = make_node(make_server, 0, slot - 1), make_node(make_server, slot, SLOTS - 1)
    nodes[0].run("CLUSTER", "MEET", LOOPBACK, nodes[1].port)
    wait_for_cluster(*nodes)
    is_first = int(nodes[0].run("CLUSTER", "KEYSLOT", TAG)) < slot
    return nodes if is_first else (nodes[1], nodes[0])


def assert_refused(couple: Couple, code: str) -> None:
    """Assert that nothing is read, and that the reason says what to do."""
    assert couple.find_stale() == []
    assert couple.are_down()
    for reason in (couple.writer.stats().reason, couple.diagnose().reason):
        assert code in (reason or "")
        assert "it is a node of a cluster: set REDIS_KEY_PREFIX to a hash tag" in (reason or "")
        assert LOOPBACK not in (reason or "")


@pytest.mark.parametrize("prefix", ["", "echo:", "{}:", "{echo:"])
def test_keys_of_several_slots_are_refused(lone_node: RedisServer, prefix: str) -> None:
    """Scripts may not use keys of several slots, even if one node holds all of them."""
    with Couple(make_settings(lone_node.url(), prefix=prefix)) as couple:
        assert_refused(couple, "CROSSSLOT")


def test_a_hash_tag_works(lone_node: RedisServer) -> None:
    """With a hash tag all keys are in one slot, so the cache is used."""
    with Couple(make_settings(lone_node.url(), prefix=TAG)) as couple:
        couple.finish()
        assert couple.reader.stats().reason is None


@pytest.mark.parametrize("place", [0, 1])
def test_a_hash_tag_works_through_any_node(two_nodes: tuple[RedisServer, RedisServer], place: int) -> None:
    """A node that does not hold the slot names the one that does."""
    with Couple(make_settings(two_nodes[place].url(), prefix=TAG)) as couple:
        couple.finish()
        assert find_servers(couple) == {two_nodes[0].port}


def test_a_cluster_without_a_hash_tag(two_nodes: tuple[RedisServer, RedisServer]) -> None:
    """Without a hash tag the keys are in many slots, so no node is followed."""
    with Couple(make_settings(two_nodes[0].url())) as couple:
        assert couple.find_stale() == []
        assert couple.are_down()


def test_a_slot_that_moves_away_and_back(two_nodes: tuple[RedisServer, RedisServer]) -> None:
    """The new node is found through the old one; nothing is stale, not even what the old one still had."""
    node, other = two_nodes
    slot = node.run("CLUSTER", "KEYSLOT", TAG)
    ids = {each: each.run("CLUSTER", "MYID").decode() for each in two_nodes}
    settings = make_settings(node.url(), prefix=TAG)
    with Couple(settings, reader=make_settings(node.url(), prefix=TAG, near=0)) as couple:
        couple.warm()
        for source, target in ((node, other), (other, node)):
            move_slot(slot, source, target, ids)
            assert_followed(couple, target)


def test_a_slot_that_moves_under_load(two_nodes: tuple[RedisServer, RedisServer]) -> None:
    """While the slot's keys are on two nodes, none is read, and nothing is stale."""
    node, other = two_nodes
    slot = node.run("CLUSTER", "KEYSLOT", TAG)
    ids = {each: each.run("CLUSTER", "MYID").decode() for each in two_nodes}
    settings = make_settings(node.url(), prefix=TAG)
    with Couple(settings, reader=make_settings(node.url(), prefix=TAG, near=0)) as couple:
        couple.warm()
        other.run("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[node])
        node.run("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[other])
        assert couple.find_stale(rounds=200) == []
        wait_until(couple.are_down, "both have noticed")
        assert "ASK" in (couple.diagnose().reason or "")
        move_slot(slot, node, other, ids)
        assert_followed(couple, other)


def test_a_node_that_is_killed(make_server: MakeServer) -> None:
    """The replica of the killed node takes the slot, and is found through another node of REDIS_URL."""
    third = SLOTS // 3
    nodes = [
        make_node(make_server, 0, third),
        make_node(make_server, third + 1, 2 * third),
        make_node(make_server, 2 * third + 1, SLOTS - 1),
    ]
    replica = make_node(make_server, 0, -1)
    for node in (*nodes[1:], replica):
        nodes[0].run("CLUSTER", "MEET", LOOPBACK, node.port)
    wait_for_cluster(*nodes, replica)
    owner = nodes[min(2, int(nodes[0].run("CLUSTER", "KEYSLOT", TAG)) // (third + 1))]
    name = owner.run("CLUSTER", "MYID")
    wait_until(lambda: name in replica.run("CLUSTER", "NODES"), "the replica knows its primary", 20)
    replica.run("CLUSTER", "REPLICATE", name)
    wait_until(lambda: replica.find_status("replication", "master_link_status") == "up", "it replicates", 20)
    others = [node for node in nodes if node is not owner]
    url = f"redis://{LOOPBACK}:{owner.port},{LOOPBACK}:{others[0].port},{LOOPBACK}:{others[1].port}/0"
    with Couple(make_settings(url, prefix=TAG), reader=make_settings(url, prefix=TAG, near=0)) as couple:
        couple.warm()
        owner.kill()
        stale = list[str]()
        wait_until(
            lambda: go_on(couple, stale) and replica.find_status("replication", "role") == "master",
            "the replica is elected",
            30,
        )
        assert stale == []
        wait_for_cluster(*others, replica)
        assert_followed(couple, replica)


def assert_followed(couple: Couple, node: RedisServer) -> None:
    """Write and read until the node is used by both; assert that nothing is stale meanwhile."""
    stale = list[str]()
    wait_until(
        lambda: go_on(couple, stale) and find_servers(couple) == {node.port} and couple.is_used(),
        "the new node is used",
    )
    assert stale == []
    couple.finish()


def move_slot(slot: int, source: RedisServer, target: RedisServer, ids: dict[RedisServer, str]) -> None:
    """Move a slot with its keys, as `redis-cli --cluster reshard` does."""
    target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    while keys := source.run("CLUSTER", "GETKEYSINSLOT", slot, 100):
        source.run("MIGRATE", LOOPBACK, target.port, "", 0, 5_000, "REPLACE", "KEYS", *keys)
    for node in (target, source):
        node.run("CLUSTER", "SETSLOT", slot, "NODE", ids[target])


def test_a_node_without_slots(make_server: MakeServer) -> None:
    """A cluster without an owner of the slot is down, and the reason says so."""
    node = make_node(make_server, 0, -1)
    with Couple(make_settings(node.url(), prefix=TAG)) as couple:
        assert couple.find_stale() == []
        assert couple.are_down()
        assert "CLUSTERDOWN" in (couple.diagnose().reason or "")
        node.run("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        wait_for_cluster(node)
        couple.finish()


def test_another_database_is_refused(lone_node: RedisServer) -> None:
    """A cluster only has database 0; the reason for refusing another one says so."""
    url = lone_node.url().replace("/0", "/1")
    with Couple(make_settings(url, prefix=TAG)) as couple:
        assert couple.find_stale() == []
        assert couple.are_down()
        assert "SELECT" in (couple.diagnose().reason or "")
