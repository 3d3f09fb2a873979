"""A Redis Cluster is used only if REDIS_KEY_PREFIX has a hash tag, which puts all keys into one slot."""

import pytest

from core.settings.texts import LOOPBACK
from tests.matrix.caches.cache_pair import CachePair, collect_stale, find_servers, make_settings
from tests.matrix.caches.conftest import MakeServer
from tests.matrix.caches.servers import RedisServer
from tests.patience import wait_until

SLOTS = 16_384
TAG = "{echo}:"


# If a node does not answer for this time, the other nodes mark it as failed.
NODE_TIMEOUT_MILLISECONDS = 1_000


def make_node(make_server: MakeServer, first: int, last: int) -> RedisServer:
    """Start a node that serves the slots from `first` to `last`; no slot if `last` is smaller."""
    options = ["--cluster-config-file", "nodes.conf", "--repl-diskless-sync-delay", "0"]
    options += ["--cluster-node-timeout", str(NODE_TIMEOUT_MILLISECONDS)]
    node = make_server("--cluster-enabled", "yes", *options)
    if last >= first:
        node.run("CLUSTER", "ADDSLOTSRANGE", first, last)
    return node


def wait_for_cluster(*nodes: RedisServer) -> None:
    """Wait until the cluster state is `ok` on every node."""
    for node in nodes:
        wait_until(
            lambda node=node: b"cluster_state:ok" in node.run("CLUSTER", "INFO"),  # type: ignore[misc]  # bound at once
            "the cluster serves",
            20,
        )


@pytest.fixture
def lone_node(make_server: MakeServer) -> RedisServer:
    """Return the only node of a cluster; it serves every slot."""
    node = make_node(make_server, 0, SLOTS - 1)
    wait_for_cluster(node)
    return node


@pytest.fixture
def two_nodes(make_server: MakeServer) -> tuple[RedisServer, RedisServer]:
    """Return the two nodes of a cluster; the first one serves the slot of `TAG`."""
    slot = SLOTS // 2
    nodes = make_node(make_server, 0, slot - 1), make_node(make_server, slot, SLOTS - 1)
    nodes[0].run("CLUSTER", "MEET", LOOPBACK, nodes[1].port)
    wait_for_cluster(*nodes)
    is_first = int(nodes[0].run("CLUSTER", "KEYSLOT", TAG)) < slot
    return nodes if is_first else (nodes[1], nodes[0])


def assert_refused(pair: CachePair, code: str) -> None:
    """Assert that the cache is bypassed, and that the reason has the error code and asks for a hash tag."""
    assert pair.find_stale() == []
    assert pair.both_bypass_redis()
    for reason in (pair.writer.stats().reason, pair.diagnose().reason):
        assert code in (reason or "")
        assert "it is a node of a cluster: set REDIS_KEY_PREFIX to a hash tag" in (reason or "")
        assert LOOPBACK not in (reason or "")


@pytest.mark.parametrize("prefix", ["", "echo:", "{}:", "{echo:"])
def test_a_prefix_without_a_hash_tag_is_refused(lone_node: RedisServer, prefix: str) -> None:
    """Without a hash tag the cache is bypassed, because no script may use keys of several slots."""
    with CachePair(make_settings(lone_node.url(), prefix=prefix)) as pair:
        assert_refused(pair, "CROSSSLOT")


def test_a_hash_tag_works(lone_node: RedisServer) -> None:
    """With a hash tag in the prefix all keys are in one slot, and the cache is used."""
    with CachePair(make_settings(lone_node.url(), prefix=TAG)) as pair:
        pair.assert_recovered()
        assert pair.reader.stats().reason is None


@pytest.mark.parametrize("node", [0, 1])
def test_a_hash_tag_works_through_any_node(two_nodes: tuple[RedisServer, RedisServer], node: int) -> None:
    """If REDIS_URL names a node without the slot of the hash tag, both processes use the node that has it."""
    with CachePair(make_settings(two_nodes[node].url(), prefix=TAG)) as pair:
        pair.assert_recovered()
        assert find_servers(pair) == {two_nodes[0].port}


def test_two_nodes_without_a_hash_tag_are_not_used(two_nodes: tuple[RedisServer, RedisServer]) -> None:
    """Without a hash tag the keys are on both nodes, so the cache is bypassed."""
    with CachePair(make_settings(two_nodes[0].url())) as pair:
        assert pair.find_stale() == []
        assert pair.both_bypass_redis()


def test_a_moved_slot_is_followed(two_nodes: tuple[RedisServer, RedisServer]) -> None:
    """When the slot moves to the other node and back, both processes follow it and read nothing stale."""
    node, other = two_nodes
    slot = node.run("CLUSTER", "KEYSLOT", TAG)
    ids = {server: server.run("CLUSTER", "MYID").decode() for server in two_nodes}
    settings = make_settings(node.url(), prefix=TAG)
    with CachePair(settings, reader=make_settings(node.url(), prefix=TAG, near=0)) as pair:
        pair.warm()
        for source, target in ((node, other), (other, node)):
            move_slot(slot, source, target, ids)
            assert_followed(pair, target)


def test_a_migrating_slot_is_not_used(two_nodes: tuple[RedisServer, RedisServer]) -> None:
    """While the keys of a slot are on two nodes, both processes bypass Redis and read nothing stale."""
    node, other = two_nodes
    slot = node.run("CLUSTER", "KEYSLOT", TAG)
    ids = {server: server.run("CLUSTER", "MYID").decode() for server in two_nodes}
    settings = make_settings(node.url(), prefix=TAG)
    with CachePair(settings, reader=make_settings(node.url(), prefix=TAG, near=0)) as pair:
        pair.warm()
        other.run("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[node])
        node.run("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[other])
        assert pair.find_stale(rounds=200) == []
        wait_until(pair.both_bypass_redis, "both have noticed")
        assert "ASK" in (pair.diagnose().reason or "")
        move_slot(slot, node, other, ids)
        assert_followed(pair, other)


def test_the_replica_of_a_killed_node_is_used(make_server: MakeServer) -> None:
    """After the primary of the slot is killed, both processes find its replica through another node."""
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
    with CachePair(make_settings(url, prefix=TAG), reader=make_settings(url, prefix=TAG, near=0)) as pair:
        pair.warm()
        owner.kill()
        stale = list[str]()
        wait_until(
            lambda: collect_stale(pair, stale) and replica.find_status("replication", "role") == "master",
            "the replica is elected",
            30,
        )
        assert stale == []
        wait_for_cluster(*others, replica)
        assert_followed(pair, replica)


def assert_followed(pair: CachePair, node: RedisServer) -> None:
    """Write and read until both processes use the node; assert that no read is stale."""
    stale = list[str]()
    wait_until(
        lambda: collect_stale(pair, stale) and find_servers(pair) == {node.port} and pair.both_use_cache(),
        "the new node is used",
    )
    assert stale == []
    pair.assert_recovered()


def move_slot(slot: int, source: RedisServer, target: RedisServer, ids: dict[RedisServer, str]) -> None:
    """Move a slot with its keys, as `redis-cli --cluster reshard` does."""
    target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    while keys := source.run("CLUSTER", "GETKEYSINSLOT", slot, 100):
        source.run("MIGRATE", LOOPBACK, target.port, "", 0, 5_000, "REPLACE", "KEYS", *keys)
    for node in (target, source):
        node.run("CLUSTER", "SETSLOT", slot, "NODE", ids[target])


def test_a_cluster_without_the_slot_is_not_used(make_server: MakeServer) -> None:
    """If no node serves the slot, the cache is bypassed with the reason CLUSTERDOWN."""
    node = make_node(make_server, 0, -1)
    with CachePair(make_settings(node.url(), prefix=TAG)) as pair:
        assert pair.find_stale() == []
        assert pair.both_bypass_redis()
        assert "CLUSTERDOWN" in (pair.diagnose().reason or "")
        node.run("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        wait_for_cluster(node)
        pair.assert_recovered()


def test_another_database_is_refused(lone_node: RedisServer) -> None:
    """A URL with database 1 is refused, because a cluster has only database 0; the reason names SELECT."""
    url = lone_node.url().replace("/0", "/1")
    with CachePair(make_settings(url, prefix=TAG)) as pair:
        assert pair.find_stale() == []
        assert pair.both_bypass_redis()
        assert "SELECT" in (pair.diagnose().reason or "")
