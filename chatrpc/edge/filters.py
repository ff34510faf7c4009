"""The chain that every call passes, in order."""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import GrpcMethodList, GrpcMethodListService, RuntimeFractionalPercent
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import Cors
from envoy_data_plane.envoy.extensions.filters.http.grpc_stats.v3 import FilterConfig as GrpcStats
from envoy_data_plane.envoy.extensions.filters.http.grpc_web.v3 import GrpcWeb
from envoy_data_plane.envoy.extensions.filters.http.health_check.v3 import HealthCheck
from envoy_data_plane.envoy.extensions.filters.http.local_ratelimit.v3 import LocalRateLimit
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.envoy.type.v3 import FractionalPercent, Percent, TokenBucket
from envoy_data_plane.google.protobuf import Any

from chatrpc.edge.auth import jwt_filter, rbac_filter
from chatrpc.edge.clusters import UPSTREAM_CLUSTER
from chatrpc.edge.contract import chat_services, standard_services
from chatrpc.edge.routes import CORS_FILTER
from chatrpc.settings import AuthSettings, EdgeSettings

# What a load balancer asks, by plain HTTP and without a token.
HEALTH_PATH = "/healthz"


def http_filters(edge: EdgeSettings, auth: AuthSettings) -> list[HttpFilter]:
    """Cheap refusals come first: a flood is turned away before a signature is checked.

    Raises:
        SettingsError: As `jwt_filter`.
    """
    rbac = rbac_filter(auth)
    return [
        HttpFilter(name="envoy.filters.http.health_check", typed_config=Any.pack(_health_check())),
        HttpFilter(name=CORS_FILTER, typed_config=Any.pack(Cors())),
        HttpFilter(name="envoy.filters.http.grpc_web", typed_config=Any.pack(GrpcWeb())),
        HttpFilter(name="envoy.filters.http.grpc_stats", typed_config=Any.pack(_grpc_stats())),
        HttpFilter(
            name="envoy.filters.http.local_ratelimit",
            typed_config=Any.pack(_rate_limit(edge.requests_per_second)),
        ),
        jwt_filter(auth),
        *([rbac] if rbac is not None else []),
        # The server and the caller need none of Envoy's own headers.
        HttpFilter(name="envoy.filters.http.router", typed_config=Any.pack(Router(suppress_envoy_headers=True))),
    ]


def _health_check() -> HealthCheck:
    """200 while some server is healthy and this Envoy is not draining, else 503."""
    return HealthCheck(
        pass_through_mode=False,
        headers=[HeaderMatcher(name=":path", string_match=StringMatcher(exact=HEALTH_PATH))],
        cluster_min_healthy_percentages={UPSTREAM_CLUSTER: Percent(value=1.0)},
    )


def _grpc_stats() -> GrpcStats:
    """Figures by method, for the methods that exist: a caller could invent any number of other names."""
    return GrpcStats(
        individual_method_stats_allowlist=GrpcMethodList(
            services=[
                GrpcMethodListService(name=service.name, method_names=[*service.unary, *service.streaming])
                for service in (*chat_services(), *standard_services())
            ]
        ),
        enable_upstream_stats=True,
    )


def _rate_limit(per_second: int) -> LocalRateLimit:
    everything = RuntimeFractionalPercent(default_value=FractionalPercent(numerator=100))
    return LocalRateLimit(
        stat_prefix="edge",
        token_bucket=TokenBucket(max_tokens=per_second, tokens_per_fill=per_second, fill_interval=timedelta(seconds=1)),
        filter_enabled=everything,
        filter_enforced=everything,
        # Otherwise gRPC callers would read 429 as UNAVAILABLE and retry at once.
        rate_limited_as_resource_exhausted=True,
    )
