"""The configuration of every process; `Settings` lists all variables."""

from core.settings.environment import STACK_ENV_FILE, EnvironmentSettings, number, port, redact
from core.settings.role_settings import RoleSettings
from core.settings.settings import STACK_NAME_FORM, Settings, StackName, build_listener_url

__all__ = [
    "EnvironmentSettings",
    "RoleSettings",
    "STACK_ENV_FILE",
    "STACK_NAME_FORM",
    "Settings",
    "StackName",
    "build_listener_url",
    "number",
    "port",
    "redact",
]
