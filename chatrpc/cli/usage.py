"""`chatrpc usage`: what was used, and what is left."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
from chatapi.v1.account_service_pb2 import (
    DailyUsage,
    GetUsageRequest,
    GetUsageResponse,
    QuotaStatus,
    QuotaWindow,
    UsageKind,
)
from google.protobuf.json_format import MessageToJson

from chatrpc.cli.access import Access, needs_access
from chatrpc.cli.terminal import printable
from chatrpc.domain import counted


@click.command()
@needs_access
@click.option("--days", type=click.IntRange(1, 92), default=7, show_default=True, help="How many, today the last.")
@click.option("--json", "as_json", is_flag=True, help="Print what the server answers, as JSON.")
def usage(access: Access, days: int, as_json: bool) -> None:
    """Tell how many tokens were used by day and model, and what is left of the quota."""
    request = GetUsageRequest()
    request.start_time.FromDatetime(datetime.now(UTC) - timedelta(days=days - 1))

    async def tell() -> None:
        async with access.client() as client:
            answer = await client.call(client.account.GetUsage, request)
        click.echo(MessageToJson(answer) if as_json else printable(_text(answer)))

    access.run(tell())


def _text(answer: GetUsageResponse) -> str:
    days = [_day(day) for day in answer.days] or ["Nothing was used on these days."]
    return "\n".join([_quota(answer.quota), "", *days])


def _quota(quota: QuotaStatus) -> str:
    window = QuotaWindow.Name(quota.window).removeprefix("QUOTA_WINDOW_").lower()
    tokens = _used(quota.used_tokens, quota.token_limit if quota.HasField("token_limit") else None, "token", "tokens")
    turns = _used(quota.used_turns, quota.turn_limit if quota.HasField("turn_limit") else None, "reply", "replies")
    return (
        f"This {window}, until {quota.reset_time.ToDatetime():%Y-%m-%d %H:%M} UTC: "
        f"{tokens} and {turns}; {counted(quota.reserved_tokens, 'token')} reserved for {quota.running_turns:,} running."
    )


def _used(number: int, limit: int | None, one: str, many: str) -> str:
    return counted(number, one, many) if limit is None else f"{number:,} of {counted(limit, one, many)}"


def _day(day: DailyUsage) -> str:
    kind = UsageKind.Name(day.kind).removeprefix("USAGE_KIND_").lower()
    parts = [
        f"{day.prompt_tokens:,} prompt" + (f" ({day.cached_tokens:,} cached)" if day.cached_tokens else ""),
        f"{day.completion_tokens:,} completion",
        f"{day.embedding_tokens:,} embedding",
    ]
    estimated = f"; {day.estimated_tokens:,} of them estimated" if day.estimated_tokens else ""
    model = day.model or "model not known"
    return f"{day.day.ToDatetime():%Y-%m-%d}  {kind:9}  {day.count:>6,} x {model}: {', '.join(parts)} tokens{estimated}"
