"""The settings that both `make up` and the processes of the stack read: listeners, names and secrets.

`make up` passes them to the processes. It may choose other ports, and it writes the secrets into files.
"""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from core.settings.environment import EnvironmentSettings, number, port
from core.settings.stack_identity import NAME_PATTERN
from core.settings.texts import LOOPBACK, check_listener

Listener = Annotated[str, AfterValidator(check_listener)]
StackName = Annotated[str, Field(pattern=rf"^{NAME_PATTERN}$")]

# Clients on this machine reach a server that listens on every address at the loopback address.
_REACHABLE = {"": LOOPBACK, "0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104  # nothing is bound here
_LISTENER_FORM = "an address to listen on"


class SharedSettings(EnvironmentSettings):
    """The settings that the processes and the commands of the stack have in common."""

    exporter_host: Listener = Field(default=LOOPBACK, description=_LISTENER_FORM)
    exporter_port: int = port(9100)
    dashboard_host: Listener = Field(default=LOOPBACK, description=_LISTENER_FORM)
    dashboard_port: int = port(8501)
    dashboard_workers: int = number(1, 1, 64, unit="a whole number of processes")
    oidc_client_secret: SecretStr | None = Field(
        default=None, description="the client's secret at the provider"
    )
    oidc_cookie_secret: Annotated[SecretStr, Field(min_length=32)] | None = Field(
        default=None, description="a random text of 32 characters or more"
    )
    stack_name: StackName | None = Field(
        default=None, description="up to 64 letters, digits, '.', '_' and '-'"
    )


def build_listener_url(listen_host: str, port: int | str) -> str:
    """Return the URL by which a program on this machine reaches a server that listens on `listen_host`."""
    host = _REACHABLE.get(listen_host, listen_host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
