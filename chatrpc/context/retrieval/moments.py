"""The times that a query names, in English, so that what was said then comes first.

Unknown wording names no time, which costs nothing but the preference.
"""

from __future__ import annotations

import re
from calendar import month_abbr, month_name
from datetime import UTC, datetime, timedelta

Span = tuple[float, float]
"""From and up to, in seconds since the epoch."""

# The user's day may begin up to half a day before or after that of Greenwich.
_SLACK = timedelta(hours=12)

_MONTHS = {name.lower(): number for names in (month_name, month_abbr) for number, name in enumerate(names) if name}
_MONTH = rf"(?P<month>{'|'.join(sorted(_MONTHS, key=len, reverse=True))})\b\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_UNITS = {"day": 1, "week": 7, "month": 30, "year": 365}
_AMOUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}

# The first that fits names the time. "May" and "March" are words too, so a month alone needs a word before it.
_DATES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b{_YEAR}-(?P<number>\d\d)-(?P<day>\d\d)\b",
        rf"\b{_DAY} (?:of )?{_MONTH}(?:,? {_YEAR})?\b",
        rf"\b{_MONTH} {_DAY}\b(?:,? {_YEAR})?",
        rf"\b{_MONTH},? (?:of )?{_YEAR}\b",
        rf"\b(?:in|during|since|of|last|this|early|late|mid|for|by|around)[ -]{_MONTH}",
        rf"\b(?:in|during|since|of|from) {_YEAR}\b",
    )
]
# One of these is in each text that a pattern above fits, and one of those below in each that a pattern below fits. Most
# questions hold none of them, which is seen in a tenth of the time.
_IN_DATES = ("19", "20", *(name.lower() for name in month_abbr if name))
_IN_DISTANCES = tuple(_UNITS)
_DAYS = re.compile(r"\b(today|yesterday)\b", re.IGNORECASE)
_CURRENT = re.compile(r"\b(this|last|past) (week|month|year)\b", re.IGNORECASE)
_AGO = re.compile(rf"\b(\d{{1,3}}|{'|'.join(_AMOUNTS)}) (day|week|month|year)s? ago\b", re.IGNORECASE)


def spans(text: str, now: datetime) -> list[Span]:
    """The times that a text names, seen from `now`; none where it names none. A month without a year is the last."""
    found: list[tuple[datetime, datetime]] = []
    folded = text.casefold()
    names_date = any(each in folded for each in _IN_DATES)
    names_distance = any(each in folded for each in _IN_DISTANCES)
    if not names_date and not names_distance:
        return []
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for pattern in _DATES if names_date else ():
        dates = [span for match in pattern.finditer(text) if (span := _date(match, today)) is not None]
        if dates:
            found += dates
            break
    for match in _DAYS.finditer(text):
        start = today - timedelta(days=match[1].lower() == "yesterday")
        found.append((start, start + timedelta(days=1)))
    for match in _CURRENT.finditer(text):
        length = timedelta(days=_UNITS[match[2].lower()])
        # Weeks and months that have gone by end somewhere within the current ones.
        reach = length if match[1].lower() == "this" else 2 * length
        found.append((today - reach, today + timedelta(days=1)))
    for match in _AGO.finditer(text):
        unit = _UNITS[match[2].lower()]
        amount = _AMOUNTS.get(match[1].lower()) or int(match[1])
        # People round: "two weeks ago" is within half a week of it.
        middle, half = today - timedelta(days=amount * unit), timedelta(days=max(1, unit // 2))
        found.append((middle - half, middle + half))
    return [((start - _SLACK).timestamp(), (end + _SLACK).timestamp()) for start, end in found]


def _date(match: re.Match[str], today: datetime) -> tuple[datetime, datetime] | None:
    """A day, a month or a year, as far as it is given."""
    given = match.groupdict()
    month = int(given["number"]) if given.get("number") else _MONTHS.get((given.get("month") or "").lower())
    day = int(given["day"]) if given.get("day") else None
    if given.get("year"):
        year = int(given["year"])
    else:
        year = today.year if month is None or month <= today.month else today.year - 1
    try:
        start = datetime(year, month or 1, day or 1, tzinfo=UTC)
    except ValueError:
        return None  # Such as the 31st of February.
    if day:
        return start, start + timedelta(days=1)
    return start, datetime(year + (month in (None, 12)), 1 if month in (None, 12) else month + 1, 1, tzinfo=UTC)
