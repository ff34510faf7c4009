"""One JSON object for each finished call, on standard error.

Neither the token nor the query, where a caller may have put one, nor the user is written.
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog, AccessLogFilter, NotHealthCheckFilter
from envoy_data_plane.envoy.config.core.v3 import SubstitutionFormatString
from envoy_data_plane.envoy.extensions.access_loggers.stream.v3 import StderrAccessLog
from envoy_data_plane.google.protobuf import Any, Struct, Value

FIELDS = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "duration_ms": "%DURATION%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "upstream": "%UPSTREAM_HOST%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "user_agent": "%REQ(USER-AGENT)%",
}


def access_log() -> AccessLog:
    """The log; a load balancer's questions are left out."""
    return AccessLog(
        name="envoy.access_loggers.stderr",
        filter=AccessLogFilter(not_health_check_filter=NotHealthCheckFilter()),
        typed_config=Any.pack(
            StderrAccessLog(
                log_format=SubstitutionFormatString(
                    json_format=Struct(fields={name: Value(string_value=text) for name, text in FIELDS.items()})
                )
            )
        ),
    )
