"""`make pin-images`: writes the current digest of each container image after the tag of the image.

Owns the format of an image reference, and the list of the files that contain one. Pulls no image.
"""

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from core.errors import StackError

IMAGE_FILES: Final = ("compose.yaml", "containers/proxy.yaml")
ANSWER_SECONDS: Final = 60.0
# matches ${POSTGRES_IMAGE:-postgres:17} and ${POSTGRES_IMAGE:-postgres:17@sha256:...}
_IMAGE: Final = re.compile(r"(?P<begin>\$\{[A-Z]+_IMAGE:-)(?P<tag>[^}@]+)(@(?P<digest>[^}]+))?\}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def pin_images(files: Iterable[Path]) -> dict[str, str]:
    """Write the current digest of each image after its tag in these files. Return the digests by tag.

    If a registry does not answer, raises `StackError` and changes no file.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    tags = {found["tag"] for text in texts.values() for found in _IMAGE.finditer(text)}
    digests = {tag: find_digest(tag) for tag in sorted(tags)}
    for path, text in texts.items():
        pinned = _IMAGE.sub(lambda found: f"{found['begin']}{found['tag']}@{digests[found['tag']]}}}", text)
        path.write_text(pinned, encoding="utf-8")
    return digests


def find_digest(tag: str) -> str:
    """Return the current digest of a tag. Raises `StackError` if its registry does not report one."""
    command = ["docker", "buildx", "imagetools", "inspect", tag, "--format", "{{.Manifest.Digest}}"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except FileNotFoundError:
        raise StackError("there is no docker command") from None
    except subprocess.TimeoutExpired:
        raise StackError(f"the registry of {tag} does not answer within {ANSWER_SECONDS:.0f} s") from None
    digest = result.stdout.strip()
    if result.returncode != 0 or _DIGEST.fullmatch(digest) is None:
        lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
        reason = lines[-1] if lines else "no output"
        raise StackError(f"the digest of {tag} cannot be found ({reason}); nothing was changed")
    return digest
