"""The structure of the configuration, as Envoy would read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from chatrpc.edge.bootstrap import build_bootstrap, render
from chatrpc.edge.contract import chat_services
from chatrpc.edge.routes import stream_idle_timeout
from chatrpc.errors import SettingsError
from chatrpc.settings import AuthSettings, EdgeSettings, ServerSettings

URL = "https://issuer.test/keys"


def _config(
    edge: EdgeSettings | None = None, auth: AuthSettings | None = None, server: ServerSettings | None = None
) -> dict[str, Any]:
    auth = auth or AuthSettings(issuer="https://issuer.test", jwks_url=URL)
    text = render(build_bootstrap(edge or EdgeSettings(), auth, server or ServerSettings()))
    config: dict[str, Any] = yaml.load(text, Loader=yaml.CSafeLoader)
    return config


def _manager(config: dict[str, Any]) -> dict[str, Any]:
    listener = config["static_resources"]["listeners"][0]
    manager: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def _filters(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"].rsplit(".", 1)[1]: one["typed_config"] for one in _manager(config)["http_filters"]}


def _routes(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    (host,) = _manager(config)["route_config"]["virtual_hosts"]
    return {next(iter(route["match"].values())): route["route"] for route in host["routes"]}


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def test_equal_settings_give_equal_text() -> None:
    auth = AuthSettings(issuer="https://issuer.test", jwks_url=URL)
    first, second = (render(build_bootstrap(EdgeSettings(), auth, ServerSettings())) for _ in range(2))
    assert first == second


def test_the_chain_refuses_cheaply_first() -> None:
    chain = ["health_check", "cors", "grpc_web", "grpc_stats", "local_ratelimit", "jwt_authn", "router"]
    assert list(_filters(_config())) == chain
    clients = AuthSettings(issuer="https://issuer.test", jwks_url=URL, client_ids=("web",))
    assert list(_filters(_config(auth=clients))) == [*chain[:-1], "rbac", "router"]


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "192.0.2.1"])
def test_admin_listens_on_loopback_wherever_the_edge_does(host: str) -> None:
    config = _config(EdgeSettings(host=host, port=8_081, admin_port=9_902))
    assert config["admin"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 9_902}
    listener = config["static_resources"]["listeners"][0]
    assert listener["address"]["socket_address"] == {"address": host, "port_value": 8_081}


def test_every_streaming_method_has_a_streams_limits_and_every_other_a_timeout() -> None:
    routes = _routes(_config())
    streams = {f"{service.prefix}{method}" for service in chat_services() for method in service.streaming}
    assert "/chatapi.v1.ChatService/Chat" in streams
    assert "/chatapi.v1.ChatService/SendMessage" in streams
    for path, route in routes.items():
        assert "retry_policy" not in route
        if path.endswith("/"):
            assert _seconds(route["timeout"]) > 0
        else:
            assert route["timeout"] == "0s"
            assert route["max_stream_duration"]
    assert {path for path in routes if path.startswith("/chatapi.v1.") and not path.endswith("/")} == streams
    assert {service.prefix for service in chat_services() if service.unary} <= routes.keys()


@given(st.floats(min_value=0.001, max_value=86_400))
def test_an_idle_stream_outlives_the_servers_heartbeat(heartbeat: float) -> None:
    server = ServerSettings(heartbeat=heartbeat)
    assert stream_idle_timeout(server).total_seconds() >= 2 * server.heartbeat


def test_a_stream_is_bounded_in_time_after_every_token_has_expired() -> None:
    day = 24 * 60 * 60
    for path, route in _routes(_config()).items():
        if path.startswith("/chatapi.v1.") and not path.endswith("/"):
            limits = route["max_stream_duration"]
            assert _seconds(limits["max_stream_duration"]) > day
            assert limits["grpc_timeout_header_max"] == limits["max_stream_duration"]


def test_no_timeout_bounds_how_long_a_client_may_send() -> None:
    manager = _manager(_config())
    assert "request_timeout" not in manager
    assert "max_stream_duration" not in manager["common_http_protocol_options"]


def test_the_door_is_hardened() -> None:
    manager = _manager(_config(server=ServerSettings(max_streams=7)))
    assert manager["use_remote_address"] is True
    assert manager["normalize_path"] is True
    assert manager["merge_slashes"] is True
    assert manager["path_with_escaped_slashes_action"] == "REJECT_REQUEST"
    assert manager["common_http_protocol_options"]["headers_with_underscores_action"] == "REJECT_REQUEST"
    assert manager["http2_protocol_options"]["max_concurrent_streams"] == 7
    assert manager["http2_protocol_options"]["connection_keepalive"]["interval"] == "30s"
    # An empty one would take every address for an internal one.
    assert "internal_address_config" not in manager


def test_the_servers_are_hashed_checked_and_never_guessed_at() -> None:
    edge = EdgeSettings(upstream_host="chat.test", upstream_port=50_052)
    cluster = _config(edge, server=ServerSettings(max_streams=7))["static_resources"]["clusters"][0]
    assert cluster["lb_policy"] == "RING_HASH"
    assert cluster["common_lb_config"] == {"healthy_panic_threshold": {}}
    assert "grpc_health_check" in cluster["health_checks"][0]
    assert cluster["outlier_detection"]["enforcing_consecutive_5xx"] == 0
    (options,) = cluster["typed_extension_protocol_options"].values()
    assert options["explicit_http_config"]["http2_protocol_options"]["max_concurrent_streams"] == 7
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["socket_address"] == {"address": "chat.test", "port_value": 50_052}


def test_tokens_are_read_from_one_place_and_must_expire() -> None:
    auth = AuthSettings(issuer="https://issuer.test", jwks_url=URL, audience="chat", jwks_refresh=60)
    (provider,) = _filters(_config(auth=auth))["jwt_authn"]["providers"].values()
    assert provider["issuer"] == "https://issuer.test"
    assert provider["audiences"] == ["chat"]
    assert provider["from_headers"] == [{"name": "Authorization", "value_prefix": "Bearer "}]
    assert provider["require_expiration"] is True
    assert provider["forward"] is True
    assert provider["jwt_cache_config"]
    assert provider["remote_jwks"]["cache_duration"] == "60s"
    assert provider["remote_jwks"]["async_fetch"]


@pytest.mark.parametrize(
    ("url", "host", "port", "secure"),
    [
        ("https://issuer.test/keys", "issuer.test", 443, True),
        ("https://issuer.test:8443/keys", "issuer.test", 8443, True),
        ("http://127.0.0.1/keys", "127.0.0.1", 80, False),
        ("http://[::1]:8080/keys", "::1", 8080, False),
    ],
)
def test_the_key_sets_address_becomes_a_cluster(url: str, host: str, port: int, secure: bool) -> None:
    config = _config(auth=AuthSettings(issuer="https://issuer.test", jwks_url=url))
    cluster = config["static_resources"]["clusters"][1]
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["socket_address"] == {"address": host, "port_value": port}
    assert ("transport_socket" in cluster) is secure
    if secure:
        tls = cluster["transport_socket"]["typed_config"]
        validation = tls["common_tls_context"]["validation_context"]
        assert tls["sni"] == host
        assert validation["trusted_ca"] == {"filename": "/etc/ssl/certs/ca-certificates.crt"}
        assert validation["match_typed_subject_alt_names"] == [{"san_type": "DNS", "matcher": {"exact": host}}]


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "cannot be read"), ("no json", "is not JSON"), ("[]", "no list `keys`")]
)
def test_a_key_file_of_no_use_is_named(tmp_path: Path, content: str | None, problem: str) -> None:
    file = tmp_path / "jwks.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=f"CHATRPC_AUTH_JWKS_FILE: .*{problem}"):
        _config(auth=AuthSettings(issuer="https://issuer.test", jwks_file=str(file)))


def test_a_key_file_becomes_part_of_the_configuration(tmp_path: Path) -> None:
    keys = {"keys": [{"kty": "RSA", "kid": "one"}]}
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(keys, indent=4))
    config = _config(auth=AuthSettings(issuer="https://issuer.test", jwks_file=str(file)))
    (provider,) = _filters(config)["jwt_authn"]["providers"].values()
    assert json.loads(provider["local_jwks"]["inline_string"]) == keys
    assert len(config["static_resources"]["clusters"]) == 1
