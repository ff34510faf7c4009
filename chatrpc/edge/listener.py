"""The one door: HTTP/2 for services, HTTP/1.1 and HTTP/2 for browsers, hardened as Envoy advises for an edge."""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    HttpProtocolOptionsHeadersWithUnderscoresAction,
    KeepaliveSettings,
    RuntimeUInt32,
    SocketAddress,
)
from envoy_data_plane.envoy.config.listener.v3 import (
    Filter,
    FilterChain,
    Listener,
    ListenerConnectionBalanceConfig,
    ListenerConnectionBalanceConfigExactBalance,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerPathWithEscapedSlashesAction,
    LocalReplyConfig,
    RequestIdExtension,
    ResponseMapper,
)
from envoy_data_plane.envoy.extensions.request_id.uuid.v3 import UuidRequestIdConfig
from envoy_data_plane.google.protobuf import Any

from chatrpc.edge.access_log import access_log
from chatrpc.edge.filters import http_filters
from chatrpc.edge.headers import strip_reserved
from chatrpc.edge.routes import route_configuration
from chatrpc.settings import AuthSettings, EdgeSettings, ServerSettings

# Finds clients that vanished without a word; their streams would otherwise stay until the idle timeout.
DOWNSTREAM_KEEPALIVE = timedelta(seconds=30)


def edge_listener(edge: EdgeSettings, auth: AuthSettings, server: ServerSettings) -> Listener:
    """The listener with everything behind it.

    Raises:
        SettingsError: As `jwt_filter`.
    """
    manager = _connection_manager(edge, auth, server)
    return Listener(
        name="edge",
        address=Address(socket_address=SocketAddress(address=edge.host, port_value=edge.port)),
        per_connection_buffer_limit_bytes=32 * 1024,
        # One socket for all workers: a port that is in use is an error, not shared in silence. Balancing then
        # spreads the few long connections of services evenly.
        enable_reuse_port=False,
        connection_balance_config=ListenerConnectionBalanceConfig(
            exact_balance=ListenerConnectionBalanceConfigExactBalance()
        ),
        filter_chains=[
            FilterChain(
                filters=[Filter(name="envoy.filters.network.http_connection_manager", typed_config=Any.pack(manager))]
            )
        ],
    )


def _connection_manager(edge: EdgeSettings, auth: AuthSettings, server: ServerSettings) -> HttpConnectionManager:
    return HttpConnectionManager(
        stat_prefix="edge",
        route_config=route_configuration(edge, server),
        http_filters=http_filters(edge, auth),
        access_log=[access_log()],
        local_reply_config=_local_replies(),
        early_header_mutation_extensions=[strip_reserved()],
        use_remote_address=True,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST,
        max_request_headers_kb=32,
        # No request_timeout: it bounds the time until the client has sent everything, which in Chat is the end.
        request_headers_timeout=timedelta(seconds=10),
        stream_idle_timeout=timedelta(minutes=5),
        common_http_protocol_options=HttpProtocolOptions(
            idle_timeout=timedelta(hours=1),
            headers_with_underscores_action=HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST,
        ),
        http2_protocol_options=Http2ProtocolOptions(
            max_concurrent_streams=server.max_streams,
            initial_stream_window_size=64 * 1024,
            initial_connection_window_size=1024 * 1024,
            connection_keepalive=KeepaliveSettings(interval=DOWNSTREAM_KEEPALIVE, timeout=timedelta(seconds=10)),
        ),
        # A caller may bring its own request id and finds it in the answer, the server's logs and Envoy's.
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        request_id_extension=RequestIdExtension(
            typed_config=Any.pack(UuidRequestIdConfig(pack_trace_reason=False, use_request_id_for_trace_sampling=False))
        ),
    )


def _local_replies() -> LocalReplyConfig:
    """A token for another audience or client is no credential here: UNAUTHENTICATED, not PERMISSION_DENIED."""
    return LocalReplyConfig(
        mappers=[
            ResponseMapper(
                filter=AccessLogFilter(
                    status_code_filter=StatusCodeFilter(
                        comparison=ComparisonFilter(
                            op=ComparisonFilterOp.EQ,
                            value=RuntimeUInt32(default_value=403, runtime_key="edge.foreign_token_status"),
                        )
                    )
                ),
                status_code=401,
            )
        ]
    )
