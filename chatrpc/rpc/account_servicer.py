"""AccountService: what the caller has used, and may use."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from chatapi.v1 import account_service_pb2 as pb
from chatapi.v1.account_service_pb2_grpc import AccountServiceServicer

from chatrpc.db.usage import UsageLedger
from chatrpc.domain import DayUsage, Quota, QuotaWindow, UsageKind, WindowUsage
from chatrpc.errors import InvalidInput
from chatrpc.rpc.call import current_caller
from chatrpc.rpc.convert import timestamp

_Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_RANGE = timedelta(days=30)
LONGEST_RANGE = timedelta(days=92)

_WINDOWS = {window: pb.QuotaWindow.Value(f"QUOTA_WINDOW_{window.name}") for window in QuotaWindow}
_KINDS = {kind: pb.UsageKind.Value(f"USAGE_KIND_{kind.name}") for kind in UsageKind}


class AccountServicer(AccountServiceServicer):
    """Documented in the contract, `account_service.proto`."""

    def __init__(self, ledger: UsageLedger) -> None:
        self._ledger = ledger

    async def GetUsage(self, request: pb.GetUsageRequest, context: _Context) -> pb.GetUsageResponse:
        caller = current_caller()
        start, end = _days(request)
        window = await self._ledger.window(caller.user_id, caller.quota.window)
        days = await self._ledger.days(caller.user_id, start, end)
        return pb.GetUsageResponse(quota=_quota(caller.quota, window), days=map(_day, days))


def _days(request: pb.GetUsageRequest) -> tuple[datetime, datetime]:
    """Midnight before the first day, and after the last."""
    try:
        end = request.end_time.ToDatetime(UTC) if request.HasField("end_time") else datetime.now(UTC)
        start = request.start_time.ToDatetime(UTC) if request.HasField("start_time") else end - DEFAULT_RANGE
        first, after = _midnight(start), _midnight(end) + timedelta(days=1)
    except (ValueError, OverflowError):
        raise InvalidInput("start_time", "start_time and end_time must be moments of the years 1 to 9999.") from None
    if after <= first:
        raise InvalidInput("end_time", "end_time must not be before start_time.")
    if after - first > LONGEST_RANGE:
        raise InvalidInput("start_time", f"Ask for {LONGEST_RANGE.days} days at most, from start_time to end_time.")
    return first, after


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _quota(quota: Quota, used: WindowUsage) -> pb.QuotaStatus:
    return pb.QuotaStatus(
        window=_WINDOWS[quota.window],
        start_time=timestamp(used.starts_at),
        reset_time=timestamp(used.ends_at),
        token_limit=quota.tokens,
        turn_limit=quota.turns,
        used_tokens=used.tokens,
        used_turns=used.turns,
        reserved_tokens=used.reserved_tokens,
        running_turns=used.running_turns,
    )


def _day(day: DayUsage) -> pb.DailyUsage:
    return pb.DailyUsage(
        day=timestamp(day.day),
        kind=_KINDS[day.kind],
        model=day.model,
        count=day.count,
        prompt_tokens=day.prompt_tokens,
        cached_tokens=day.cached_tokens,
        completion_tokens=day.completion_tokens,
        embedding_tokens=day.embedding_tokens,
        estimated_tokens=day.estimated_tokens,
    )
