"""Request headers that mean something to the edge, and the ones that no client may set."""

from __future__ import annotations

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation, HeaderMutationRemoveOnMatch
from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    HeaderMutation as EarlyHeaderMutation,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any

# Written by Envoy from the verified token. They serve hashing and limits; the server reads the token itself.
SUBJECT_HEADER = "x-token-subject"
EXPIRY_HEADER = "x-token-expires-at"

# Written by a service that acts for a user; the server decides whether it may.
ACT_AS_HEADER = "x-chatrpc-on-behalf-of"

REQUEST_ID_HEADER = "x-request-id"

# `x-envoy-*` would let a client that comes from a private address set timeouts and retries of its own.
RESERVED_PREFIXES = ("x-user-", "x-token-", "x-envoy-")


def strip_reserved() -> TypedExtensionConfig:
    """Remove reserved headers before anything reads them: `jwt_authn` only replaces the ones that it maps."""
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=Any.pack(
            EarlyHeaderMutation(
                mutations=[
                    HeaderMutation(
                        remove_on_match=HeaderMutationRemoveOnMatch(
                            key_matcher=StringMatcher(prefix=prefix, ignore_case=True)
                        )
                    )
                    for prefix in RESERVED_PREFIXES
                ]
            )
        ),
    )
