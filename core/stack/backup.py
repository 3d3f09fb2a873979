"""Backups of the database: files in the custom format of pg_dump, encrypted if BACKUP_KEY is set.

Owns the format of a backup file. A backup is written under a temporary name, and renamed when it is
complete. It contains no password and no key. pg_dump and pg_restore are those of the embedded PostgreSQL 18;
both also work with older servers, such as the server in the containers.

An encrypted file consists of MAGIC, a salt, and blocks encrypted with AES-256-GCM. Each file has its own
key, which HKDF-SHA256 (RFC 5869) derives from BACKUP_KEY and the salt. The nonce of a block is its number
and a flag that is 1 in the last block only. Therefore a file with changed, swapped or missing blocks cannot
be decrypted (STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizar, 2015).
"""

import binascii
import os
import secrets
import subprocess
import tempfile
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from psycopg2.extensions import make_dsn, parse_dsn

from core.errors import StackError
from core.stack.embedded_servers import find_postgres_programs, open_cursor

MAGIC = b"echo-markets backup 1\n"
DUMP_MAGIC = b"PGDMP"
"""The first bytes of a file in the custom format of pg_dump."""
SALT_BYTES, KEY_BYTES, TAG_BYTES = 16, 32, 16
BLOCK_BYTES = 1 << 20


HAS_TABLES = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = 'public')"


class DatabaseProgram(NamedTuple):
    """A command line of pg_dump or pg_restore, and additional environment variables such as PGPASSWORD."""

    command: Sequence[str]
    environment: Mapping[str, str]


def build_dump_command(url: str) -> DatabaseProgram:
    """Return the pg_dump command line for the database at `url`, whose role must bypass row security."""
    return _build_command("pg_dump", url, "--format=custom")


def build_restore_command(url: str) -> DatabaseProgram:
    """Return the pg_restore command line that fills the empty database at `url` in one transaction."""
    return _build_command("pg_restore", url, "--single-transaction", "--exit-on-error")


def _build_command(name: str, url: str, *options: str) -> DatabaseProgram:
    parts = parse_dsn(url)
    # pass the password in the environment, because other users can see the arguments of a process
    environment = {"PGPASSWORD": parts.pop("password")} if "password" in parts else {}
    program = find_postgres_programs() / "bin" / name
    return DatabaseProgram([str(program), *options, "--dbname", make_dsn(**parts)], environment)


def parse_key(text: str) -> bytes:
    """Decode the value of BACKUP_KEY. Raises `StackError` if it is not 32 bytes in Base64."""
    with suppress(binascii.Error, ValueError):
        key = b64decode(text, validate=True)
        if len(key) == KEY_BYTES:
            return key
    raise StackError(
        f"BACKUP_KEY is not {KEY_BYTES} bytes in Base64; `openssl rand -base64 {KEY_BYTES}` makes one"
    )


def write_backup(dump: DatabaseProgram, path: Path, *, key: bytes | None) -> int:
    """Run pg_dump and write its output to the new file `path`. Return the size of the file in bytes.

    Only the owner of the file can read it. Without `key`, the file is not encrypted. If the backup fails,
    raises `StackError` and leaves no file.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with (
            os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
            _run(dump, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as output,
        ):
            blocks = _read_blocks(output)
            file.writelines(blocks if key is None else _encrypt(blocks, key))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise StackError(f"the backup {path} cannot be written: {error.strerror}") from error
    finally:
        fresh.unlink(missing_ok=True)
    return path.stat().st_size


def check_backup(path: Path, *, key: bytes | None) -> None:
    """Raise `StackError` unless the file is a backup that `key` can decrypt. Reads the whole file."""
    for _ in _open_backup(path, key):
        pass


def fill_database(url: str, path: Path, *, key: bytes | None) -> None:
    """Restore the backup `path` into the empty database at `url`, in a single transaction.

    The role in `url` must be a superuser. Raises `StackError` if the restore fails, or if the database has
    tables.
    """
    with open_cursor(url) as cursor:
        cursor.execute(HAS_TABLES)
        if cursor.fetchone() != (False,):
            raise StackError(
                f"the stack has data, and {path} was not restored; `make clean` removes its data"
            )
    restore_backup(build_restore_command(url), path, key=key)


def restore_backup(restore: DatabaseProgram, path: Path, *, key: bytes | None) -> None:
    """Decrypt the backup `path` and pass the dump to pg_restore. Raises `StackError` if the restore fails.

    The command line `restore` must restore in a single transaction: if the file is damaged, pg_restore is
    killed after it has received a part of the dump.
    """
    with (
        _run(restore, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as pipe,
        suppress(BrokenPipeError),  # pg_restore has ended early: `_run` raises an error with its output
    ):
        pipe.writelines(_open_backup(path, key))


@contextmanager
def _run(program: DatabaseProgram, *, stdin: int, stdout: int) -> Iterator[IO[bytes]]:
    """Run a program, and yield the pipe to its input or from its output.

    One of `stdin` and `stdout` must be `subprocess.PIPE`; this is the pipe that is yielded.
    Kills the program if the `with` block raises. If the program fails, raises `StackError` with its error
    output.
    """
    name = Path(program.command[0]).name
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                program.command,
                env={**os.environ, **program.environment},
                stdin=stdin,
                stdout=stdout,
                stderr=errors,
            )
        except OSError as error:
            raise StackError(f"{name} cannot be started: {error.strerror}") from error
        pipe = cast("IO[bytes]", process.stdin or process.stdout)
        try:
            yield pipe
        except BaseException:
            process.kill()
            raise
        finally:
            with suppress(BrokenPipeError):
                pipe.close()
            status = process.wait()
        if status != 0:
            errors.seek(0)
            words = " ".join(errors.read().decode(errors="replace").split())
            raise StackError(f"{name} failed with status {status}: {words or 'no output'}")


def _read_blocks(file: IO[bytes], size: int = BLOCK_BYTES) -> Iterator[bytes]:
    while block := file.read(size):
        yield block


def _open_backup(path: Path, key: bytes | None) -> Iterator[bytes]:
    """Yield the decrypted dump of a backup. Raises `StackError` if the file cannot be read or decrypted."""
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
            if start.startswith(DUMP_MAGIC):
                yield start
                yield from _read_blocks(file)
            elif start != MAGIC:
                raise StackError(f"{path} is not a backup: `make backup` makes one")
            elif key is None:
                raise StackError(f"{path} is encrypted; set BACKUP_KEY or BACKUP_KEY_FILE to its key")
            else:
                yield from _decrypt(file, key)
    except InvalidTag:
        raise StackError(
            f"{path} cannot be decrypted: BACKUP_KEY is not its key, or the file was damaged"
        ) from None
    except OSError as error:
        raise StackError(f"{path} cannot be read: {error.strerror}") from error


def _encrypt(blocks: Iterable[bytes], key: bytes) -> Iterator[bytes]:
    salt = secrets.token_bytes(SALT_BYTES)
    yield MAGIC + salt
    cipher = _derive(key, salt)
    for nonce, block in _number(blocks):
        yield cipher.encrypt(nonce, block, MAGIC)


def _decrypt(file: IO[bytes], key: bytes) -> Iterator[bytes]:
    cipher = _derive(key, file.read(SALT_BYTES))
    for nonce, block in _number(_read_blocks(file, BLOCK_BYTES + TAG_BYTES)):
        yield cipher.decrypt(nonce, block, MAGIC)


def _number(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield (nonce, block) for each block. If there is no block, yield one nonce with an empty block.

    A file that was cut off after its salt has no block. The decryption of the empty block then fails.
    """
    number, before = 0, b""
    for block in blocks:
        if before:
            yield number.to_bytes(11) + b"\0", before
            number += 1
        before = block
    yield number.to_bytes(11) + b"\1", before


def _derive(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=MAGIC).derive(key))
