"""The edge: Envoy's configuration from settings, and Envoy itself as a child process.

`chatrpc.edge.bootstrap` builds the configuration; it is not imported here, because Envoy's schema takes about a
second to import and whoever only runs Envoy needs none of it.
"""

from chatrpc.edge.binary import EnvoyError, envoy_binary, validate
from chatrpc.edge.process import EnvoyProcess, run_envoy

__all__ = ["EnvoyError", "EnvoyProcess", "envoy_binary", "run_envoy", "validate"]
