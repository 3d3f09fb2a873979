"""`python probe.py URL [CA]`: the health check of a container. Exit status 0 if a GET of URL returns 200.

CA is a PEM file with the certificate authority of an https server. Uses the standard library only: the probe
runs every few seconds, and importing the stack takes a second.
"""

import http.client
import ssl
import sys
from urllib.parse import urlsplit

SECONDS = 4.0
SHOWN_BYTES = 1_000


def main(url: str, authority: str | None = None) -> int:
    """Check the URL and return the exit status.

    Writes the answer or the error to standard error, which `docker inspect` shows.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection = (
        http.client.HTTPSConnection(
            host, port, timeout=SECONDS, context=ssl.create_default_context(cafile=authority)
        )
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=SECONDS)
    )
    try:
        connection.request("GET", parts.path)
        response = connection.getresponse()
        sys.stderr.write(response.read(SHOWN_BYTES).decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"{url}: {error}\n")
        return 1
    finally:
        connection.close()
    return int(response.status != http.client.OK)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
