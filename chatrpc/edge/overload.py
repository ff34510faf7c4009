"""What Envoy gives up, and in which order, before it runs out of memory."""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.overload.v3 import (
    OverloadAction,
    OverloadManager,
    ResourceMonitor,
    ThresholdTrigger,
    Trigger,
)
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 import DownstreamConnectionsConfig
from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap.v3 import FixedHeapConfig
from envoy_data_plane.google.protobuf import Any

# Give the container a quarter more. An idle stream costs about 25 KB: some 40,000 of them fit.
MAX_HEAP_BYTES = 1024 * 1024 * 1024

MAX_CONNECTIONS = 20_000

_HEAP = "envoy.resource_monitors.fixed_heap"


def overload_manager() -> OverloadManager:
    """Return free memory at 90 % of the heap, refuse calls at 95 %, refuse connections at 98 %."""
    return OverloadManager(
        refresh_interval=timedelta(milliseconds=250),
        resource_monitors=[
            ResourceMonitor(name=_HEAP, typed_config=Any.pack(FixedHeapConfig(max_heap_size_bytes=MAX_HEAP_BYTES))),
            ResourceMonitor(
                name="envoy.resource_monitors.global_downstream_max_connections",
                typed_config=Any.pack(DownstreamConnectionsConfig(max_active_downstream_connections=MAX_CONNECTIONS)),
            ),
        ],
        actions=[
            _at(0.90, "envoy.overload_actions.shrink_heap"),
            _at(0.95, "envoy.overload_actions.stop_accepting_requests"),
            _at(0.98, "envoy.overload_actions.stop_accepting_connections"),
        ],
    )


def _at(share: float, action: str) -> OverloadAction:
    return OverloadAction(name=action, triggers=[Trigger(name=_HEAP, threshold=ThresholdTrigger(value=share))])
