"""Runs a primary, its replica and three sentinels for the duration of a `with` block.

Owns the configuration of the sentinels, and the calls that ask which server they have elected.
"""

import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from core.settings.texts import LOOPBACK
from core.stack.ports import find_free_port
from core.stack.redis_access import SENTINEL_USER, list_sentinel_users
from tests.hosts import Host
from tests.matrix.caches.servers import START_SECONDS, STOP_SECONDS, RedisServer, TlsFiles, run_server
from tests.patience import stretch, wait_until

SERVICE = "echo"
SENTINELS = 3
# Longer than the pauses of a healthy server on a busy machine, so that sentinels start no needless failover.
DOWN_AFTER_MILLISECONDS = 1_500
ELECTION_SECONDS = 20.0


class Sentinel:
    """One sentinel process."""

    def __init__(
        self,
        program: str,
        directory: Path,
        port: int,
        lines: list[str],
        *,
        username: str | None = None,
        password: str = "",
        tls: TlsFiles | None = None,
    ) -> None:
        self.port = port
        self.client = redis.Redis(
            host=LOOPBACK,
            port=port,
            username=username,
            password=password or None,
            protocol=2,
            ssl=tls is not None,
            ssl_ca_certs=None if tls is None else str(tls.authority),
        )
        self._directory = directory
        self._program = program
        (directory / "sentinel.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, and return once the sentinel answers PING."""
        command = [self._program, str(self._directory / "sentinel.conf"), "--sentinel", "--logfile", "log"]
        self._process = subprocess.Popen(command, start_new_session=True, cwd=self._directory)
        deadline = time.monotonic() + stretch(START_SECONDS)
        while not self.answers():
            assert self._process.poll() is None, (self._directory / "log").read_text(encoding="utf-8")
            assert time.monotonic() < deadline, "the sentinel does not answer"
            time.sleep(0.01)
        # ask the servers for INFO every second instead of every ten, to see sooner that the replica is ready
        self.client.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", 1_000)  # type: ignore[no-untyped-call]  # has no annotations

    def answers(self) -> bool:
        """Return whether the sentinel answers PING."""
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def run(self, *command: Any) -> Any:
        """Return the reply to the subcommand `command` of SENTINEL for `SERVICE`."""
        return self.client.execute_command("SENTINEL", *command, SERVICE)  # type: ignore[no-untyped-call]  # has no annotations

    def find_primary(self) -> int:
        """Return the port of the server that this sentinel names as the primary."""
        return int(self.run("GET-MASTER-ADDR-BY-NAME")[1])

    def is_ready(self) -> bool:
        """Return whether this sentinel has a quorum and knows a replica that is connected to the primary."""
        try:
            self.run("CKQUORUM")
        except redis.ResponseError:
            return False
        replicas = self.run("REPLICAS")
        return (
            len(replicas) == 1
            and b"ok" in dict(zip(replicas[0][::2], replicas[0][1::2], strict=True))[b"master-link-status"]
        )

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)


class Sentinels:
    """A primary, its replica, and the sentinels that monitor them."""

    def __init__(
        self,
        servers: tuple[RedisServer, RedisServer],
        sentinels: list[Sentinel],
        *,
        tls: TlsFiles | None = None,
        host: Host | None = None,
    ) -> None:
        self.host = host
        self.servers = servers
        self.sentinels = sentinels
        self._scheme = "redis+sentinel" if tls is None else "rediss+sentinel"

    def url(self, account: str = "", *, service: str = SERVICE, path: str = "/0") -> str:
        """Return a URL for REDIS_URL with every sentinel and the service; `account` is NAME:PASSWORD."""
        hosts = ",".join(f"{LOOPBACK}:{sentinel.port}" for sentinel in self.sentinels)
        return f"{self._scheme}://{account and account + '@'}{hosts}/{service}{path}"

    def find_primary(self) -> tuple[RedisServer, RedisServer]:
        """Return the primary that the first sentinel names, then the other server."""
        one, two = self.servers
        return (one, two) if self.sentinels[0].find_primary() == one.port else (two, one)

    def wait_until_ready(self) -> None:
        """Return once a failover is possible: every sentinel has a quorum and knows a connected replica."""
        wait_until(
            lambda: all(sentinel.is_ready() for sentinel in self.sentinels),
            "the sentinels know each other and the replica",
            ELECTION_SECONDS,
        )

    def fail_over(self) -> None:
        """Make the first sentinel promote the replica while the primary still answers."""
        self.sentinels[0].run("FAILOVER")

    def wait_for_election(self, port: int) -> None:
        """Return once every running sentinel names the server on this port as the primary."""
        wait_until(
            lambda: all(sentinel.find_primary() == port for sentinel in self.sentinels if sentinel.answers()),
            "the sentinels have elected the replica",
            ELECTION_SECONDS,
        )


@contextmanager
def run_sentinels(
    program: str,
    make_directory: Callable[[], Path],
    *,
    password: str = "",
    sentinel_password: str = "",
    program_password: str = "",
    tls: TlsFiles | None = None,
    host: Host | None = None,
) -> Iterator[Sentinels]:
    """Yield running sentinels with their servers.

    `password` is that of the two servers, `sentinel_password` that of the sentinels. With a
    `program_password` the sentinels have the same users as in the containers, and it is the password of
    their user `echo`. With `tls` every connection uses TLS. With a `host` only the primary runs on that host.
    """
    there, here = (LOOPBACK, LOOPBACK) if host is None else (host.address, host.outside)
    options = ["--repl-diskless-sync-delay", "0"]
    lines = []
    if password:
        options += ["--requirepass", password, "--masterauth", password]
        lines.append(f'sentinel auth-pass {SERVICE} "{password}"')
    if program_password:
        lines += list_sentinel_users(sentinel_password, program_password=program_password)
    elif sentinel_password:
        lines += [f'requirepass "{sentinel_password}"', f'sentinel sentinel-pass "{sentinel_password}"']
    with ExitStack() as stack:
        primary = stack.enter_context(
            run_server(
                program, make_directory(), *options, password=password, tls=tls, address=there, host=host
            )
        )
        options += ["--replicaof", f"{there} {primary.port}"]
        replica = stack.enter_context(
            run_server(program, make_directory(), *options, password=password, tls=tls, address=here)
        )
        ports = [find_free_port() for _ in range(SENTINELS)]
        names = [secrets.token_hex(20) for _ in ports]
        sentinels = []
        for index, (port, name) in enumerate(zip(ports, names, strict=True)):
            configuration = [
                f"bind {LOOPBACK}",
                *([f"port {port}"] if tls is None else map(" ".join, tls.list_directives(port).items())),
                f"sentinel myid {name}",
                f"sentinel announce-ip {LOOPBACK}",
                f"sentinel monitor {SERVICE} {there} {primary.port} 2",
                f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MILLISECONDS}",
                f"sentinel failover-timeout {SERVICE} 3000",
                # otherwise a sentinel finds the replica and the other sentinels only after seconds
                f"sentinel known-replica {SERVICE} {here} {replica.port}",
                *(
                    f"sentinel known-sentinel {SERVICE} {LOOPBACK} {ports[other]} {names[other]}"
                    for other in range(SENTINELS)
                    if other != index
                ),
                *lines,
            ]
            sentinel = Sentinel(
                program,
                make_directory(),
                port,
                configuration,
                username=SENTINEL_USER if program_password else None,
                password=sentinel_password,
                tls=tls,
            )
            stack.callback(sentinel.client.close)
            stack.callback(sentinel.kill)
            sentinels.append(sentinel)
        for sentinel in sentinels:
            sentinel.start()
        wait_until(
            lambda: replica.find_status("replication", "master_link_status") == "up", "it replicates", 20
        )
        running = Sentinels((primary, replica), sentinels, tls=tls, host=host)
        running.wait_until_ready()
        yield running
