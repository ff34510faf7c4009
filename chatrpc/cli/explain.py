"""`chatrpc explain`: why a reply knew what it knew."""

from __future__ import annotations

from datetime import UTC, datetime

import click
from chatapi.v1.conversation_service_pb2 import GetContextReportResponse, PreviewContextResponse
from google.protobuf.json_format import MessageToJson

from chatrpc.cli.access import Access, needs_access
from chatrpc.cli.context_text import context_text
from chatrpc.cli.remote import Remote
from chatrpc.cli.terminal import printable


@click.command()
@needs_access
@click.option("--conversation", "conversation_id", help="Explain a message that is not sent: WHAT is its text.")
@click.option("--json", "as_json", is_flag=True, help="Print what the server answers, as JSON.")
@click.argument("what")
def explain(access: Access, conversation_id: str | None, as_json: bool, what: str) -> None:
    """Tell what the model was given for a reply, and why.

    WHAT is the reply's id; with --conversation, what you would say there: nothing is sent, and nothing stored.
    """

    async def tell() -> None:
        async with access.client() as client:
            remote = Remote(client)
            answer: GetContextReportResponse | PreviewContextResponse
            if conversation_id is None:
                answer = await remote.context_report(what)
            else:
                answer = await remote.preview(conversation_id, what)
        if as_json:
            click.echo(MessageToJson(answer))
        else:
            click.echo(printable(context_text(answer.report, datetime.now(UTC))))

    access.run(tell())
