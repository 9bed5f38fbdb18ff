"""Who may come in: Origin and token, decided from the headers before the upgrade.

A page's script can open a WebSocket to any host, loopback too, and only its Origin
tells where it came from; so an Origin must be one of the server's, scheme, host and
port. Without an Origin it is no browser, and the token, where there is one, decides.
"""

import secrets

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def origins(host, port, more=()):
    """The origins that a server at host and port allows, and those named beside."""
    hosts = {host, *LOOPBACK} if host in LOOPBACK else {host}
    named = [f"[{h}]" if ":" in h else h for h in hosts]
    place = "" if port == 80 else f":{port}"  # which a browser leaves out
    return frozenset(f"http://{h}{place}" for h in named) | frozenset(more)


def check_options(host, token):
    """Off loopback a token is needed.

    Raises:
      ValueError: there is none, or it could not travel as a sub-protocol.
    """
    if host not in LOOPBACK and not token:
        raise ValueError(
            f"--host {host} can be reached from elsewhere; give --token (or set "
            "TOKTALK_TOKEN), or stay on 127.0.0.1"
        )
    if token and not all(c.isascii() and (c.isalnum() or c in "-._~") for c in token):
        raise ValueError("--token: expected letters, digits and - . _ ~ only")


def refusal(headers, offered, allowed, token):
    """None, or (status, reason) to refuse a request with.

    Args:
      headers: Starlette's; offered: sub-protocols, one of which may be the token's.
      allowed: origins; token: "" if none is needed.
    """
    came = headers.getlist("origin")
    if came and (len(came) > 1 or came[0] not in allowed):
        return 403, "origin"
    if token and not _holds(headers, offered, token):
        return 401, "token"
    return None


def _holds(headers, offered, token):
    given = headers.get("authorization", "").removeprefix("Bearer ")
    for name in offered:
        if name.startswith("token."):
            given = name.removeprefix("token.")
    return secrets.compare_digest(given.encode(), token.encode())
