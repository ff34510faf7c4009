"""What `chatrpc dev` says once everything runs."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ready:
    """Where the running stack is reached. The field names are the keys of the JSON line.

    Attributes:
        endpoint: URL of Envoy: gRPC and gRPC-web.
        direct_endpoint: `host:port` of the server itself: gRPC only.
        token: An access token of the user `alice`.
        database_url: libpq URL, as the superuser.
        admin_endpoint: URL of Envoy's admin interface.
    """

    endpoint: str
    direct_endpoint: str
    token: str
    database_url: str
    admin_endpoint: str

    def json_line(self) -> str:
        """For programs: one line, without the line break."""
        return json.dumps(dataclasses.asdict(self))

    def banner(self) -> str:
        """For people: the addresses, and commands to paste into another terminal."""
        return f"""
chatrpc is ready. Ctrl-C ends everything that was started; the data stays.

  gRPC, gRPC-web   {self.endpoint}
  gRPC, direct     {self.direct_endpoint}
  PostgreSQL       {self.database_url}
  Envoy's admin    {self.admin_endpoint}

In another terminal, as the user alice:

  export CHATRPC_TOKEN={self.token}

  uv run chatrpc chat --endpoint {self.endpoint} --token $CHATRPC_TOKEN

  uv run buf curl --protocol grpc \\
    --header "authorization: Bearer $CHATRPC_TOKEN" --reflect-header '*' \\
    --data '{{"conversation": {{"title": "Hello"}}}}' \\
    {self.endpoint}/chatapi.v1.ConversationService/CreateConversation

  uv run buf curl --protocol grpcweb --schema proto \\
    --header "authorization: Bearer $CHATRPC_TOKEN" \\
    {self.endpoint}/chatapi.v1.ConversationService/ListConversations
"""
