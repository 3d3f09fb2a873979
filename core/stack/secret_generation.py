"""Generates the secrets of the containers, as files in `.local/secrets/` to which `compose.yaml` refers.

Owns the list of these files. `secret_distribution` gives each container the secrets that it needs.
"""

from typing import Final, NamedTuple

from pydantic import SecretStr

from core.settings.role_names import APP, MONITOR, REPLICATION
from core.stack.folder import StackFolder
from core.stack.permissions import load_password, write_private
from core.stack.redis_access import build_acl, build_replication, build_sentinel
from core.stack.settings import StackSettings

SCRAPER: Final = "prometheus"
"""The user who signs in at the exporter with HTTP basic authentication, which only PROFILE=tls requires."""


class ContainerSecrets(NamedTuple):
    """The passwords with which programs on this machine sign in at the servers in containers."""

    superuser_password: str
    owner_password: str
    app_password: str
    redis_password: str
    exporter_password: str


def make_secrets(folder: StackFolder, settings: StackSettings) -> ContainerSecrets:
    """Write all secret files of the containers, and return the passwords for programs on this machine.

    The first call generates the passwords. The secrets of the OIDC sign-in come from `settings`.
    """
    secrets = ContainerSecrets(
        superuser_password=load_password(folder.secrets / "postgres.password"),
        owner_password=load_password(folder.secrets / "owner.password"),
        app_password=load_password(folder.secrets / "app.password"),
        redis_password=load_password(folder.secrets / "redis.password"),
        exporter_password=load_password(folder.secrets / "exporter.password"),
    )
    monitor_password = load_password(folder.secrets / "monitor.password")
    sentinel_password = load_password(folder.secrets / "sentinel.password")
    replication_password = load_password(folder.secrets / "replication.password")
    made = {
        "redis.acl": build_acl(
            secrets.redis_password,
            sentinel_password=sentinel_password if "sentinel" in settings.list_profiles() else None,
        ),
        "redis.replication.conf": build_replication(sentinel_password),
        "sentinel.conf": build_sentinel(sentinel_password, program_password=secrets.redis_password),
        "replication.pgpass": f"postgres:5432:replication:{REPLICATION}:{replication_password}\n",
        "pooler.users": f'"{APP}" "{secrets.app_password}"\n"{MONITOR}" "{monitor_password}"\n',
    }
    for name, content in made.items():
        write_private(folder.secrets / name, content)
    for name, value in _list_oidc_secrets(settings).items():
        # write an empty file without OIDC: compose needs every secret file that `compose.yaml` names
        write_private(folder.secrets / name, value.get_secret_value() if value else "")
    url = f"https://{SCRAPER}:{secrets.exporter_password}@exporter:9100"
    write_private(folder.secrets / "exporter.url", url)
    write_private(folder.secrets / "exporter.web.yml", _build_web_config(secrets.exporter_password))
    return secrets


def _list_oidc_secrets(settings: StackSettings) -> dict[str, SecretStr | None]:
    """Return the secrets of the OIDC sign-in by the names of their files. They are None without OIDC."""
    return {"oidc.client": settings.oidc_client_secret, "oidc.cookie": settings.oidc_cookie_secret}


def name_copies(settings: StackSettings) -> dict[str, str]:
    """Return the variables of `compose.yaml` with the paths of the OIDC secrets in the dashboard's container.

    For example, OIDC_CLIENT_COPY is `/run/secrets/oidc.client`. Without OIDC, the values are empty.
    """
    return {
        f"{name.replace('.', '_').upper()}_COPY": f"/run/secrets/{name}" if value else ""
        for name, value in _list_oidc_secrets(settings).items()
    }


def _build_web_config(password: str) -> str:
    """Return the exporter's web-config file. The paths in it are relative to the folder of this file."""
    # imported here, because only the extra `exporter` installs these packages
    import bcrypt  # noqa: PLC0415
    import yaml  # noqa: PLC0415

    digest = bcrypt.hashpw(password.encode(), bcrypt.gensalt()).decode()
    return yaml.safe_dump(
        {
            "tls_server_config": {"cert_file": "exporter.crt", "key_file": "exporter.key"},
            "basic_auth_users": {SCRAPER: digest},
        }
    )
