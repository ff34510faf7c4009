"""Envoy's whole configuration, from settings to text."""

from __future__ import annotations

from typing import cast

import yaml
from betterproto2 import Casing
from envoy_data_plane.envoy.config.bootstrap.v3 import Admin, Bootstrap, BootstrapStaticResources
from envoy_data_plane.envoy.config.core.v3 import Address, SocketAddress

from chatrpc.edge.clusters import SYSTEM_CA_FILE, jwks_cluster, upstream_cluster
from chatrpc.edge.listener import edge_listener
from chatrpc.edge.overload import overload_manager
from chatrpc.settings import AuthSettings, EdgeSettings, ServerSettings

# Names as Envoy's schema writes them. `Casing.SNAKE` would cut `consecutive_5xx` into `consecutive_5_xx`.
_SCHEMA_NAMES = cast("Casing", str)


def build_bootstrap(
    edge: EdgeSettings, auth: AuthSettings, server: ServerSettings, *, ca_file: str = SYSTEM_CA_FILE
) -> Bootstrap:
    """Build the configuration of an Envoy in front of the servers.

    Args:
        ca_file: Authorities, on the machine where Envoy will run, that vouch for the key set's address. A file
            given by `auth.jwks_file` is read now instead and becomes part of the configuration.

    Raises:
        SettingsError: The key set's file or address is of no use; the sentence names the setting.
    """
    clusters = [upstream_cluster(edge, server)]
    if auth.jwks_url is not None:
        clusters.append(jwks_cluster(auth.jwks_url, ca_file))
    return Bootstrap(
        # Never another address: whoever reaches the admin port can stop Envoy and read its configuration.
        admin=Admin(address=Address(socket_address=SocketAddress(address="127.0.0.1", port_value=edge.admin_port))),
        static_resources=BootstrapStaticResources(listeners=[edge_listener(edge, auth, server)], clusters=clusters),
        overload_manager=overload_manager(),
    )


def render(bootstrap: Bootstrap) -> str:
    """The configuration as YAML. Keys stand in the schema's order, so equal settings give equal text."""
    return yaml.safe_dump(bootstrap.to_dict(casing=_SCHEMA_NAMES), sort_keys=False, width=120, allow_unicode=True)
