"""An asynchronous client of `chatapi.v1` whose turns survive restarts, cut connections and expiring tokens.

    async with connect("http://127.0.0.1:8080", token) as client, client.chat() as session:
        turn = await session.send(text_message(conversation_id, "What did I say about Lisbon?"))
        async for event in turn:
            print(event.delta.text, end="", flush=True)

It stands on the generated stubs alone; `docs/clients.md` shows how to do without it.
"""

from chatrpc.client.client import ChatClient, connect
from chatrpc.client.errors import CallError, StatusCode
from chatrpc.client.retry import RetryPolicy
from chatrpc.client.session import ChatSession, Turn, text_message

__all__ = [
    "CallError",
    "ChatClient",
    "ChatSession",
    "RetryPolicy",
    "StatusCode",
    "Turn",
    "connect",
    "text_message",
]
