"""The token at the edge: refused early when it is bad, passed on when it is good.

The server verifies every token again, so these filters save it work and keep strangers out; they are not what
identity rests on.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

from envoy_data_plane.envoy.config.core.v3 import BackoffStrategy, DataSource, HttpUri, RetryPolicy
from envoy_data_plane.envoy.config.rbac.v3 import (
    MetadataSource,
    Permission,
    Policy,
    Principal,
    PrincipalSet,
    RbacAction,
    SourcedMetadata,
)
from envoy_data_plane.envoy.config.rbac.v3 import Rbac as RbacRules
from envoy_data_plane.envoy.config.route.v3 import RouteMatch
from envoy_data_plane.envoy.extensions.filters.http.jwt_authn.v3 import (
    JwksAsyncFetch,
    JwtAuthentication,
    JwtCacheConfig,
    JwtClaimToHeader,
    JwtHeader,
    JwtProvider,
    JwtRequirement,
    RemoteJwks,
    RequirementRule,
)
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import (
    MetadataMatcher,
    MetadataMatcherPathSegment,
    PathMatcher,
    StringMatcher,
    ValueMatcher,
)
from envoy_data_plane.google.protobuf import Any

from chatrpc.edge.clusters import JWKS_CLUSTER
from chatrpc.edge.contract import HEALTH
from chatrpc.edge.headers import EXPIRY_HEADER, SUBJECT_HEADER
from chatrpc.errors import SettingsError
from chatrpc.settings import AuthSettings

# Health says nothing that a stranger may not know, and load balancers bring no token.
OPEN_PREFIX = f"/{HEALTH}/"

JWT_FILTER = "envoy.filters.http.jwt_authn"
_PROVIDER = "tokens"
_PAYLOAD = "token"

# Looser than any server should be: a token that is good to the server must never fail here.
CLOCK_SKEW_SECONDS = 30

# Verified tokens that each worker remembers until they expire, at most 4 KiB each: about 4 MiB.
TOKEN_CACHE_SIZE = 1_000

_FETCH_TIMEOUT = timedelta(seconds=5)
_REFETCH_AFTER_FAILURE = timedelta(seconds=1)


def jwt_filter(auth: AuthSettings) -> HttpFilter:
    """Every path but health needs a token; what is not listed is not open.

    Raises:
        SettingsError: The key set's file cannot be read, or is no JSON Web Key Set.
    """
    provider = JwtProvider(
        issuer=auth.issuer,
        audiences=[auth.audience] if auth.audience is not None else [],
        require_expiration=True,
        clock_skew_seconds=CLOCK_SKEW_SECONDS,
        # Left out, Envoy would also read `?access_token=`, and addresses end up in logs.
        from_headers=[JwtHeader(name="Authorization", value_prefix="Bearer ")],
        forward=True,
        payload_in_metadata=_PAYLOAD,
        claim_to_headers=[
            JwtClaimToHeader(header_name=SUBJECT_HEADER, claim_name="sub"),
            JwtClaimToHeader(header_name=EXPIRY_HEADER, claim_name="exp"),
        ],
        jwt_cache_config=JwtCacheConfig(jwt_cache_size=TOKEN_CACHE_SIZE),
        local_jwks=DataSource(inline_string=_read_keys(auth.jwks_file)) if auth.jwks_file is not None else None,
        remote_jwks=_remote_keys(auth.jwks_url, auth.jwks_refresh) if auth.jwks_url is not None else None,
    )
    return HttpFilter(
        name=JWT_FILTER,
        typed_config=Any.pack(
            JwtAuthentication(
                providers={_PROVIDER: provider},
                rules=[
                    RequirementRule(match=RouteMatch(prefix=OPEN_PREFIX)),
                    RequirementRule(match=RouteMatch(prefix="/"), requires=JwtRequirement(provider_name=_PROVIDER)),
                ],
                bypass_cors_preflight=True,
            )
        ),
    )


def rbac_filter(auth: AuthSettings) -> HttpFilter | None:
    """Admit only the clients that are named, or None where none is.

    AWS Cognito's access tokens have no `aud`; they say `client_id`, and `token_use` is `access`. Other issuers
    have no `token_use` at all.
    """
    if not auth.client_ids:
        return None
    known_client = _any_of([_claim("client_id", _exactly(client_id)) for client_id in auth.client_ids])
    access_token = _any_of(
        [
            _claim("token_use", _exactly("access")),
            Principal(not_id=_claim("token_use", ValueMatcher(present_match=True))),
        ]
    )
    policies = {
        "health": Policy(
            permissions=[Permission(url_path=PathMatcher(path=StringMatcher(prefix=OPEN_PREFIX)))],
            principals=[Principal(any=True)],
        ),
        "clients": Policy(
            permissions=[Permission(any=True)],
            principals=[Principal(and_ids=PrincipalSet(ids=[known_client, access_token]))],
        ),
    }
    return HttpFilter(
        name="envoy.filters.http.rbac",
        typed_config=Any.pack(Rbac(rules=RbacRules(action=RbacAction.ALLOW, policies=policies))),
    )


def _any_of(principals: list[Principal]) -> Principal:
    return Principal(or_ids=PrincipalSet(ids=principals))


def _exactly(text: str) -> ValueMatcher:
    return ValueMatcher(string_match=StringMatcher(exact=text))


def _claim(name: str, value: ValueMatcher) -> Principal:
    """Callers whose verified token has such a claim."""
    return Principal(
        sourced_metadata=SourcedMetadata(
            metadata_source=MetadataSource.DYNAMIC,
            metadata_matcher=MetadataMatcher(
                filter=JWT_FILTER,
                path=[MetadataMatcherPathSegment(key=_PAYLOAD), MetadataMatcherPathSegment(key=name)],
                value=value,
            ),
        )
    )


def _remote_keys(url: str, refresh: float) -> RemoteJwks:
    return RemoteJwks(
        http_uri=HttpUri(uri=url, cluster=JWKS_CLUSTER, timeout=_FETCH_TIMEOUT),
        cache_duration=timedelta(seconds=refresh),
        # Fetched before the listener opens and renewed in the background: no call waits for keys.
        async_fetch=JwksAsyncFetch(failed_refetch_duration=_REFETCH_AFTER_FAILURE),
        retry_policy=RetryPolicy(
            num_retries=3,
            retry_back_off=BackoffStrategy(
                base_interval=timedelta(milliseconds=100), max_interval=timedelta(seconds=1)
            ),
        ),
    )


def _read_keys(path: str) -> str:
    """The key set, as compact JSON."""
    try:
        keys = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise SettingsError(f"CHATRPC_AUTH_JWKS_FILE: {path} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise SettingsError(f"CHATRPC_AUTH_JWKS_FILE: {path} is not JSON.") from None
    if not isinstance(keys, dict) or not isinstance(keys.get("keys"), list):
        raise SettingsError(f"CHATRPC_AUTH_JWKS_FILE: {path} has no list `keys`; it must be a JSON Web Key Set.")
    return json.dumps(keys, separators=(",", ":"), sort_keys=True)
