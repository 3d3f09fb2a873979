"""Copies secrets for the containers: `python -m core.stack.secret_distribution SOURCE TARGET`, as root.

Only the user who ran `make up` can read the secret files that compose mounts, but containers run as other
users. Therefore the secrets are copied into folders of a volume. Each container mounts one of these folders,
which has only the secrets that the container needs, and which only the user of the container can read. Owns
the list of the folders and their secrets.
"""

import os
import sys
from pathlib import Path
from typing import NamedTuple


class Receiver(NamedTuple):
    """The containers that share a folder of secrets: their numeric user id, and the names of the secrets."""

    user: int
    names: tuple[str, ...]


APPLICATION_USER = 10001  # the user that the Dockerfile creates
SERVER_USER = 999  # the user of the server in the images postgres and redis
PROMETHEUS_USER = 65534

_EVERY_PROGRAM = ("redis.password", "ca.crt")
_READS_USERS = (*_EVERY_PROGRAM, "app.password", "encryption.keys")
# Each key is the name of a folder of secrets that `compose.yaml` mounts.
RECEIVERS = {
    "postgres": Receiver(SERVER_USER, ("postgres.password", "postgres.crt", "postgres.key")),
    "replica": Receiver(SERVER_USER, ("replication.pgpass",)),
    "pooler": Receiver(APPLICATION_USER, ("pooler.users",)),
    "redis": Receiver(
        SERVER_USER, ("redis.acl", "redis.replication.conf", "redis.crt", "redis.key", "ca.crt")
    ),
    "sentinel": Receiver(SERVER_USER, ("sentinel.conf",)),
    "roles": Receiver(
        APPLICATION_USER,
        (
            "postgres.password",
            "owner.password",
            "app.password",
            "monitor.password",
            "replication.password",
            "ca.crt",
        ),
    ),
    "owner": Receiver(APPLICATION_USER, (*_READS_USERS, "owner.password")),
    "application": Receiver(APPLICATION_USER, _READS_USERS),
    "exporter": Receiver(
        APPLICATION_USER,
        (*_EVERY_PROGRAM, "monitor.password", "exporter.crt", "exporter.key", "exporter.web.yml"),
    ),
    "dashboard": Receiver(APPLICATION_USER, (*_READS_USERS, "exporter.url", "oidc.client", "oidc.cookie")),
    "prometheus": Receiver(PROMETHEUS_USER, ("ca.crt", "exporter.password")),
}


def copy_secrets(source: Path, target: Path) -> None:
    """Copy the secrets from `source` into the folders in `target`, one folder for each entry of RECEIVERS.

    Leaves out secrets that are missing or empty in `source`. Removes all other files in the folders.
    """
    for name, receiver in RECEIVERS.items():
        folder = target / name
        if not folder.exists():
            folder.mkdir(mode=0o500)
            os.chown(folder, receiver.user, receiver.user)
        wanted = [secret for secret in receiver.names if _is_used(source / secret)]
        for secret in wanted:
            _write(folder / secret, (source / secret).read_bytes(), user=receiver.user)
        for path in folder.iterdir():
            if path.name not in wanted:
                path.unlink()


def _is_used(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _write(path: Path, content: bytes, *, user: int) -> None:
    # write a new file and rename it: a container that starts now must not read an incomplete secret
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchown(descriptor, user, user)
    fresh.replace(path)


if __name__ == "__main__":
    copy_secrets(Path(sys.argv[1]), Path(sys.argv[2]))
