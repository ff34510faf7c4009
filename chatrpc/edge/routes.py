"""Which calls go where, how long they may last, and which web pages may make them."""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.route.v3 import (
    Route,
    RouteAction,
    RouteActionHashPolicy,
    RouteActionHashPolicyHeader,
    RouteActionMaxStreamDuration,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import CorsPolicy
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any

from chatrpc.edge.clusters import UPSTREAM_CLUSTER
from chatrpc.edge.contract import HEALTH, Service, chat_services, standard_services
from chatrpc.edge.headers import ACT_AS_HEADER, REQUEST_ID_HEADER, SUBJECT_HEADER
from chatrpc.settings import EdgeSettings, ServerSettings

CORS_FILTER = "envoy.filters.http.cors"

ALLOWED_HEADERS = (
    "authorization",
    "content-type",
    "x-grpc-web",
    "x-user-agent",
    "grpc-timeout",
    ACT_AS_HEADER,
    REQUEST_ID_HEADER,
)
EXPOSED_HEADERS = ("grpc-status", "grpc-message", "grpc-status-details-bin", REQUEST_ID_HEADER)

UNARY_TIMEOUT = timedelta(seconds=30)

# A stream ends with its token, and the server ends it cleanly. Issuers give at most a day (AWS Cognito's longest
# access token); an hour more keeps Envoy from ever being the first, since its end reaches callers as INTERNAL.
MAX_STREAM_DURATION = timedelta(hours=25)

# Health's Watch needs no token and may be silent for as long as nothing changes; watchers come back by themselves.
WATCH_DURATION = timedelta(hours=1)


def route_configuration(edge: EdgeSettings, server: ServerSettings) -> RouteConfiguration:
    """Routes for the contract, health and reflection. Any other path is 404, which is UNIMPLEMENTED to gRPC."""
    services = (*chat_services(), *standard_services())
    return RouteConfiguration(
        name="calls",
        virtual_hosts=[
            VirtualHost(
                name="chatrpc",
                domains=["*"],
                routes=[route for service in services for route in _service_routes(service, server)],
                typed_per_filter_config={CORS_FILTER: Any.pack(_cors_policy(edge.allowed_origins))},
            )
        ],
    )


def stream_idle_timeout(server: ServerSettings) -> timedelta:
    """Three heartbeats missed: the server is gone, or the client has stopped reading."""
    return timedelta(seconds=max(60.0, 3 * server.heartbeat))


def _service_routes(service: Service, server: ServerSettings) -> list[Route]:
    """One route for each streaming method, before one for the rest of a service that has a rest."""
    routes = [
        Route(
            name=f"{service.name}/{method}",
            match=RouteMatch(path=f"{service.prefix}{method}"),
            route=_stream_action(service, server),
        )
        for method in service.streaming
    ]
    if not service.unary:
        return routes
    rest = RouteAction(cluster=UPSTREAM_CLUSTER, timeout=UNARY_TIMEOUT, hash_policy=_hash_policy())
    return [*routes, Route(name=service.name, match=RouteMatch(prefix=service.prefix), route=rest)]


def _stream_action(service: Service, server: ServerSettings) -> RouteAction:
    watch = service.name == HEALTH
    duration = WATCH_DURATION if watch else MAX_STREAM_DURATION
    return RouteAction(
        cluster=UPSTREAM_CLUSTER,
        timeout=timedelta(0),
        idle_timeout=WATCH_DURATION if watch else stream_idle_timeout(server),
        # The server is told this as its deadline; without the second field, in place of the client's own.
        max_stream_duration=RouteActionMaxStreamDuration(
            max_stream_duration=duration, grpc_timeout_header_max=duration
        ),
        hash_policy=_hash_policy(),
    )


def _hash_policy() -> list[RouteActionHashPolicy]:
    """The acting user's server: the user that a service names, else the token's own subject."""
    return [
        RouteActionHashPolicy(header=RouteActionHashPolicyHeader(header_name=ACT_AS_HEADER), terminal=True),
        RouteActionHashPolicy(header=RouteActionHashPolicyHeader(header_name=SUBJECT_HEADER)),
    ]


def _cors_policy(origins: tuple[str, ...]) -> CorsPolicy:
    """Tokens travel in a header, never in a cookie, so credentials stay off and `*` gives no one another's.

    The policy stands even without an origin: a preflight is then answered here, without permission, and does
    not pass on to the server, which it could do without a token.
    """
    return CorsPolicy(
        allow_origin_string_match=[StringMatcher(exact=origin) for origin in origins],
        allow_methods="POST",
        allow_headers=",".join(ALLOWED_HEADERS),
        expose_headers=",".join(EXPOSED_HEADERS),
        max_age=str(int(timedelta(hours=2).total_seconds())),
        allow_credentials=False,
        forward_not_matching_preflights=False,
    )
