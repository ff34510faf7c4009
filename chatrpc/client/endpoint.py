"""Where a server is."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import grpc

from chatrpc.errors import InvalidInput

_PORTS = {"http": 80, "https": 443}


def open_channel(endpoint: str) -> grpc.aio.Channel:
    """A channel to `http://host:port`, `host:port` (both without TLS) or `https://host:port`; call it inside the
    running event loop. The scheme's own port is taken where none is given.

    TLS trusts gRPC's own list of authorities, or those in the file that GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names.

    Raises:
        InvalidInput: The endpoint has another form.
    """
    problem = InvalidInput(
        "endpoint", f"The endpoint {endpoint!r} must be http://host:port, https://host:port or host:port."
    )
    try:
        url = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
        host, port = url.hostname, url.port
    except ValueError:
        raise problem from None
    if url.scheme not in _PORTS or not host or url.path.strip("/") or url.query or url.username is not None:
        raise problem
    if port is None:
        port = _PORTS[url.scheme]
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    options = [
        # A server that comes back is met again within seconds; by default a channel waits up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # A connection that died without a word is found out; the server allows a ping a second.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # A proxy for the outside would look for this machine's own ports on itself.
        ("grpc.enable_http_proxy", 0 if _is_loopback(host) else 1),
    ]
    if url.scheme == "https":
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
    return grpc.aio.insecure_channel(target, options=options)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
