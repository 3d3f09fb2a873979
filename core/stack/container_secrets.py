"""The secrets of the containers, as files below `.local/secrets/` that compose.yaml names.

Owns the list of secrets, and makes those that are missing; `secret_copies` gives each container the ones it
needs.
"""

from typing import Final, NamedTuple

from core.stack.folder import StackFolder
from core.stack.permissions import load_password, write_private
from core.stack.redis_access import build_acl

SCRAPER: Final = "prometheus"
"""The user of the exporter, which asks for a password with PROFILE=tls."""


class ContainerSecrets(NamedTuple):
    """The passwords with which a program of this machine reaches the servers."""

    superuser_password: str
    owner_password: str
    app_password: str
    redis_password: str
    exporter_password: str


def make_secrets(folder: StackFolder) -> ContainerSecrets:
    """Return the secrets; the first call generates them."""
    load_password(folder.secrets / "monitor.password")
    secrets = ContainerSecrets(
        superuser_password=load_password(folder.secrets / "postgres.password"),
        owner_password=load_password(folder.secrets / "owner.password"),
        app_password=load_password(folder.secrets / "app.password"),
        redis_password=load_password(folder.secrets / "redis.password"),
        exporter_password=load_password(folder.secrets / "exporter.password"),
    )
    write_private(folder.secrets / "redis.acl", build_acl(secrets.redis_password))
    url = f"https://{SCRAPER}:{secrets.exporter_password}@exporter:9100"
    write_private(folder.secrets / "exporter.url", url)
    write_private(folder.secrets / "exporter.web.yml", _build_web_config(secrets.exporter_password))
    return secrets


def _build_web_config(password: str) -> str:
    """Return the exporter's web config; the names of its files are relative to it."""
    # of the extra `exporter`, which a checkout has; the command line is there without it
    import bcrypt  # noqa: PLC0415
    import yaml  # noqa: PLC0415

    digest = bcrypt.hashpw(password.encode(), bcrypt.gensalt()).decode()
    return yaml.safe_dump(
        {
            "tls_server_config": {"cert_file": "exporter.crt", "key_file": "exporter.key"},
            "basic_auth_users": {SCRAPER: digest},
        }
    )
