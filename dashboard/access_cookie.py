"""Who asks for a file, from the cookie that Streamlit's sign-in sets.

Owns the way from cookies to claims for requests beside the pages, which Streamlit does not
look at: pages get theirs over the WebSocket. Signature, age and chunks are checked by
Streamlit's own functions.
"""

import json
from collections.abc import Mapping
from typing import Any

from streamlit.auth_util import get_cookie_with_chunks
from streamlit.web.server.server_util import get_cookie_secret
from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value
from streamlit.web.server.starlette.starlette_server_config import USER_COOKIE_NAME


def read_claims(cookies: Mapping[str, str], *, origin: str | None) -> dict[str, Any]:
    """Return the claims of the sign-in that these cookies hold; empty when there is none.

    `origin` is where the sign-in has to have been for: a cookie of another dashboard on this
    host, signed with the same secret, is none.
    """

    def decode(name: str) -> bytes | None:
        value = cookies.get(name)
        return decode_signed_value(get_cookie_secret(), name, value.encode("latin-1")) if value else None

    try:
        claims = json.loads(get_cookie_with_chunks(decode, USER_COOKIE_NAME) or b"{}")
    except ValueError:
        return {}
    is_ours = isinstance(claims, dict) and claims.get("origin") == origin
    return claims if is_ours else {}
