"""Where Envoy connects to: the chatrpc servers, and the issuer's keys."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlsplit

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCommonLbConfig,
    ClusterDiscoveryType,
    ClusterDnsLookupFamily,
    ClusterLbPolicy,
    ClusterRingHashLbConfig,
    OutlierDetection,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    DataSource,
    HealthCheck,
    HealthCheckGrpcHealthCheck,
    Http2ProtocolOptions,
    KeepaliveSettings,
    SocketAddress,
    TransportSocket,
)
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Any

from chatrpc.settings import EdgeSettings, ServerSettings

UPSTREAM_CLUSTER = "chatrpc"
JWKS_CLUSTER = "jwks"

# Where Debian, Ubuntu, Alpine and Envoy's own images keep the authorities that the system trusts.
SYSTEM_CA_FILE = "/etc/ssl/certs/ca-certificates.crt"

# Envoy pings its connections to the server this often. A gRPC server permits that only with
# `grpc.http2.min_ping_interval_without_data_ms` (below this) and `grpc.keepalive_permit_without_calls`; else it ends
# the connection and all its streams for "too many pings".
UPSTREAM_KEEPALIVE = timedelta(seconds=30)

_CONNECT_TIMEOUT = timedelta(seconds=2)
_HEALTH_INTERVAL = timedelta(seconds=2)
_BUFFER_BYTES = 32 * 1024


def upstream_cluster(edge: EdgeSettings, server: ServerSettings) -> Cluster:
    """The chatrpc servers: every address that the name resolves to is one, and each user has a usual one."""
    http2 = Http2ProtocolOptions(
        # The server's own limit: a stream beyond it would be refused before its settings frame has arrived.
        max_concurrent_streams=server.max_streams,
        initial_stream_window_size=64 * 1024,
        initial_connection_window_size=1024 * 1024,
        connection_keepalive=KeepaliveSettings(interval=UPSTREAM_KEEPALIVE, timeout=timedelta(seconds=5)),
    )
    return Cluster(
        name=UPSTREAM_CLUSTER,
        type=ClusterDiscoveryType.STRICT_DNS,
        dns_lookup_family=ClusterDnsLookupFamily.V4_PREFERRED,
        connect_timeout=_CONNECT_TIMEOUT,
        per_connection_buffer_limit_bytes=_BUFFER_BYTES,
        lb_policy=ClusterLbPolicy.RING_HASH,
        ring_hash_lb_config=ClusterRingHashLbConfig(minimum_ring_size=1024),
        # With no healthy server a call fails at once; it is not sent to one that is known to be down.
        common_lb_config=ClusterCommonLbConfig(healthy_panic_threshold=Percent(value=0.0)),
        load_assignment=_endpoint(UPSTREAM_CLUSTER, edge.upstream_host, edge.upstream_port),
        health_checks=[_grpc_health_check()],
        # A server that left the name is drained although it still answers; its open streams go on.
        ignore_health_on_host_removal=True,
        outlier_detection=_outlier_detection(),
        circuit_breakers=CircuitBreakers(
            thresholds=[
                # Envoy's own defaults of 1,024 would end at as many open chats. What bounds the edge is its
                # overload manager.
                CircuitBreakersThresholds(
                    max_connections=4_096, max_pending_requests=4_096, max_requests=100_000, track_remaining=True
                )
            ]
        ),
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": Any.pack(
                HttpProtocolOptions(
                    explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=http2)
                )
            )
        },
    )


def jwks_cluster(url: str, ca_file: str) -> Cluster:
    """The host of the issuer's key set; over TLS its certificate must be for that name, by an authority of the file."""
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port
    assert host is not None, "settings take no address without a host"
    secure = parts.scheme == "https"
    return Cluster(
        name=JWKS_CLUSTER,
        type=ClusterDiscoveryType.LOGICAL_DNS,
        dns_lookup_family=ClusterDnsLookupFamily.V4_PREFERRED,
        connect_timeout=_CONNECT_TIMEOUT,
        load_assignment=_endpoint(JWKS_CLUSTER, host, port or (443 if secure else 80)),
        transport_socket=_tls(host, ca_file) if secure else None,
    )


def _endpoint(cluster: str, host: str, port: int) -> ClusterLoadAssignment:
    address = Address(socket_address=SocketAddress(address=host, port_value=port))
    return ClusterLoadAssignment(
        cluster_name=cluster,
        endpoints=[LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=address))])],
    )


def _grpc_health_check() -> HealthCheck:
    """A server that says NOT_SERVING before it drains gets no new call after at most two intervals."""
    return HealthCheck(
        timeout=timedelta(seconds=2),
        interval=_HEALTH_INTERVAL,
        interval_jitter=timedelta(milliseconds=200),
        # Envoy's default is a minute while there is no traffic: a server that came up late would stay unseen.
        no_traffic_interval=_HEALTH_INTERVAL,
        unhealthy_interval=timedelta(seconds=1),
        unhealthy_threshold=2,
        healthy_threshold=1,
        grpc_health_check=HealthCheckGrpcHealthCheck(),
    )


def _outlier_detection() -> OutlierDetection:
    """Eject a server that cannot be reached or resets calls, never for a status that it answers.

    A gRPC status counts as an HTTP error here (UNIMPLEMENTED as 501, UNAVAILABLE as 503), so a caller of unknown
    methods, or a language model that is down, would otherwise eject healthy servers.
    """
    return OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=5,
        enforcing_consecutive_local_origin_failure=100,
        enforcing_consecutive_5xx=0,
        enforcing_consecutive_gateway_failure=0,
        enforcing_success_rate=0,
        enforcing_local_origin_success_rate=0,
        base_ejection_time=timedelta(seconds=10),
        max_ejection_percent=50,
    )


def _tls(host: str, ca_file: str) -> TransportSocket:
    return TransportSocket(
        name="envoy.transport_sockets.tls",
        typed_config=Any.pack(
            UpstreamTlsContext(
                sni=host,
                common_tls_context=CommonTlsContext(
                    validation_context=CertificateValidationContext(
                        trusted_ca=DataSource(filename=ca_file),
                        match_typed_subject_alt_names=[
                            SubjectAltNameMatcher(
                                san_type=SubjectAltNameMatcherSanType.DNS, matcher=StringMatcher(exact=host)
                            )
                        ],
                    )
                ),
            )
        ),
    )
