"""The configurations under `envoy/`, for Docker Compose and for Kubernetes."""

from __future__ import annotations

from chatrpc.edge.bootstrap import build_bootstrap, render
from chatrpc.settings import AuthSettings, EdgeSettings, ServerSettings

# A stand-in for the user pool; `docs/edge.md` says how to render the files for a real one.
_ISSUER = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_EXAMPLE"

_COMMENT = "# Rendered by `python -m chatrpc.edge`; docs/edge.md says what each part does. Do not edit.\n"


def rendered_files() -> dict[str, str]:
    """File names and texts. The environment has no part in them: whoever renders them gets the same."""
    auth = AuthSettings.model_construct(
        issuer=_ISSUER, jwks_url=f"{_ISSUER}/.well-known/jwks.json", client_ids=("EXAMPLE_CLIENT_ID",)
    )
    server = ServerSettings.model_construct()
    # The service's name in both. On Kubernetes it is headless: the name gives every pod, so each user has a usual one.
    edge = EdgeSettings.model_construct(upstream_host="chatrpc")
    text = _COMMENT + render(build_bootstrap(edge, auth, server))
    return {"compose.yaml": text, "kubernetes.yaml": text}
