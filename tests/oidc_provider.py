"""Runs an OpenID Connect provider on 127.0.0.1 for the duration of a `with` block.

Owns the endpoints for discovery, authorization, tokens and keys. It signs in the user that the test sets,
without a login page. It knows one client and checks what a real provider checks: the client's secret, its
redirect URI, and the PKCE challenge of the code.
"""

import base64
import hashlib
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from core.settings.texts import LOOPBACK
from core.stack.ports import find_free_port

CLIENT_ID = "echo-markets"
CLIENT_SECRET = "s3cr3t-of-the-client"
START_SECONDS = 30.0


class Provider:
    """A running provider; `claims` are those of the next ID token, which was issued `age_seconds` ago."""

    def __init__(self, url: str, redirect_uri: str) -> None:
        self.url = url
        self.redirect_uri = redirect_uri
        self.claims: dict[str, Any] = {}
        self.age_seconds = 0
        self._key = RSAKey.generate_key(2048, {"kid": "test", "use": "sig"})
        self._codes: dict[str, dict[str, str]] = {}

    def settings(self) -> dict[str, str]:
        """Return the environment variables of a dashboard that uses this provider."""
        return {
            "OIDC_CLIENT_ID": CLIENT_ID,
            "OIDC_CLIENT_SECRET": CLIENT_SECRET,
            "OIDC_METADATA_URL": f"{self.url}/.well-known/openid-configuration",
            "OIDC_REDIRECT_URI": self.redirect_uri,
            "OIDC_COOKIE_SECRET": secrets.token_hex(32),
        }

    def build_app(self) -> Starlette:
        """Return an application with the four endpoints that a client uses."""
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discover),
                Route("/authorize", self._authorize),
                Route("/token", self._issue, methods=["POST"]),
                Route("/jwks", self._show_keys),
            ]
        )

    async def _discover(self, _: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/jwks",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "code_challenge_methods_supported": ["S256"],
            }
        )

    async def _authorize(self, request: Request) -> Response:
        query = dict(request.query_params)
        if query["client_id"] != CLIENT_ID or query["redirect_uri"] != self.redirect_uri:
            return Response("unknown client", status_code=400)
        code = secrets.token_hex(16)
        self._codes[code] = query
        return RedirectResponse(f"{self.redirect_uri}?{urlencode({'code': code, 'state': query['state']})}")

    async def _issue(self, request: Request) -> Response:
        form = await request.form()
        authorized = self._codes.pop(str(form["code"]), None)
        digest = hashlib.sha256(str(form.get("code_verifier", "")).encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        expected = "Basic " + base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        is_client = request.headers.get("authorization") == expected
        if authorized is None or authorized.get("code_challenge") != challenge or not is_client:
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": CLIENT_ID,
            "iat": now - self.age_seconds,
            "exp": now + 600,
            "nonce": authorized["nonce"],
            **self.claims,
        }
        token = jwt.encode({"alg": "RS256", "kid": "test"}, claims, self._key)
        return JSONResponse({"access_token": "unused", "token_type": "Bearer", "id_token": token})

    async def _show_keys(self, _: Request) -> Response:
        return JSONResponse({"keys": [self._key.as_dict(private=False)]})


@contextmanager
def run_provider(redirect_uri: str) -> Iterator[Provider]:
    """Yield a provider that runs on a free port, in a thread of this process."""
    port = find_free_port()
    provider = Provider(f"http://{LOOPBACK}:{port}", redirect_uri)
    config = uvicorn.Config(provider.build_app(), host=LOOPBACK, port=port, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="provider", daemon=True)
    thread.start()
    deadline = time.monotonic() + START_SECONDS
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    if not server.started:
        raise RuntimeError(f"the provider did not start on port {port}")
    try:
        yield provider
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
