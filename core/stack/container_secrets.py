"""The secrets of the containers, as files in `.local/secrets/`, to which compose.yaml refers.

Owns the list of secrets, and generates missing ones. `secret_copies` gives each container the secrets that it
needs.
"""

from typing import Final, NamedTuple

from pydantic import SecretStr

from core.settings.role_names import APP, MONITOR, REPLICATION
from core.stack.folder import StackFolder
from core.stack.permissions import load_password, write_private
from core.stack.redis_access import build_acl, build_replication, build_sentinel
from core.stack.settings import StackSettings

SCRAPER: Final = "prometheus"
"""The user name for HTTP basic authentication at the exporter, which only PROFILE=tls requires."""


class ContainerSecrets(NamedTuple):
    """The passwords with which a program on this machine signs in at the servers."""

    superuser_password: str
    owner_password: str
    app_password: str
    redis_password: str
    exporter_password: str


def make_secrets(folder: StackFolder, settings: StackSettings) -> ContainerSecrets:
    """Write the files of all secrets and return the passwords; the first call generates them.

    The secrets of the dashboard's OIDC sign-in are copied from the settings.
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
    for name, value in find_sign_in(settings).items():
        # an empty file without a value: compose requires every file that compose.yaml names
        write_private(folder.secrets / name, value.get_secret_value() if value else "")
    url = f"https://{SCRAPER}:{secrets.exporter_password}@exporter:9100"
    write_private(folder.secrets / "exporter.url", url)
    write_private(folder.secrets / "exporter.web.yml", _build_web_config(secrets.exporter_password))
    return secrets


def find_sign_in(settings: StackSettings) -> dict[str, SecretStr | None]:
    """Return the secrets of the dashboard's OIDC sign-in by file name; the values are None without OIDC."""
    return {"oidc.client": settings.oidc_client_secret, "oidc.cookie": settings.oidc_cookie_secret}


def name_copies(settings: StackSettings) -> dict[str, str]:
    """Return the variables of compose.yaml with the paths of the OIDC secrets in the dashboard's container.

    The values are empty without OIDC.
    """
    return {
        f"{name.replace('.', '_').upper()}_COPY": f"/run/secrets/{name}" if value else ""
        for name, value in find_sign_in(settings).items()
    }


def _build_web_config(password: str) -> str:
    """Return the exporter's web config; its file names are relative to the config file."""
    # imported here: the packages are in the extra `exporter`, and the command line works without it
    import bcrypt  # noqa: PLC0415
    import yaml  # noqa: PLC0415

    digest = bcrypt.hashpw(password.encode(), bcrypt.gensalt()).decode()
    return yaml.safe_dump(
        {
            "tls_server_config": {"cert_file": "exporter.crt", "key_file": "exporter.key"},
            "basic_auth_users": {SCRAPER: digest},
        }
    )
