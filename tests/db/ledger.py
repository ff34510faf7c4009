"""Turns with reservations, and what the ledger says of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from chatrpc.db.engine import Database
from chatrpc.db.transcript import Transcript
from chatrpc.db.usage import UsageLedger
from chatrpc.domain import (
    Accepted,
    DayUsage,
    OutgoingMessage,
    Quota,
    QuotaWindow,
    Reservation,
    TextPart,
    WindowUsage,
)
from chatrpc.errors import ResourceExhausted

OWNER = uuid4()
RESERVATION = Reservation(prompt_tokens=70, most_prompt_tokens=1_000, completion_tokens=30)


async def send(
    database: Database,
    user_id: UUID,
    conversation_id: UUID,
    quota: Quota,
    key: str | None = None,
    owner: UUID = OWNER,
) -> Accepted:
    message = OutgoingMessage(conversation_id, key or uuid4().hex, (TextPart("Hello."),))
    return await Transcript(database).append(
        user_id, message, tokens=3, actor=None, owner=owner, reservation=RESERVATION, quota=quota
    )


async def tried(database: Database, user_id: UUID, conversation_id: UUID, quota: Quota) -> Accepted | None:
    try:
        return await send(database, user_id, conversation_id, quota)
    except ResourceExhausted:
        return None


async def window(database: Database, user_id: UUID, of: QuotaWindow = QuotaWindow.DAY) -> WindowUsage:
    return await UsageLedger(database).window(user_id, of)


async def entries(database: Database, user_id: UUID) -> list[dict[str, object]]:
    [rows] = await database.query(user_id, ("SELECT * FROM usage_entries ORDER BY booked_at, id, attempt", ()))
    return rows


async def days(database: Database, user_id: UUID) -> list[DayUsage]:
    now = datetime.now(UTC)
    return await UsageLedger(database).days(user_id, now - timedelta(days=2), now + timedelta(days=2))
