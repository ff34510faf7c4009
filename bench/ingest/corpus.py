"""A Markdown corpus as an operator's handbook reads: headings, prose, lists, tables and code, made of a seed."""

from __future__ import annotations

import random


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


SUBJECTS = _phrases(
    "the billing service,the export job,the northern warehouse,the review board,a new tenant,the nightly backup,"
    "the mobile client,our largest customer,the on-call engineer,the reporting pipeline,the identity provider,"
    "the staging cluster,the procurement team,the message queue,an external auditor,the search index,the gateway,"
    "the finance department,a retired endpoint,the data retention policy"
)
VERBS = _phrases(
    "replaces,confirms,delays,archives,rebuilds,requires,depends on,is measured against,hands over to,was moved to,"
    "refuses,accepts,reports to,shares its quota with,is restarted after,keeps a copy of,no longer trusts,waits for"
)
OBJECTS = _phrases(
    "every signed invoice,the quarterly figures,two independent approvals,the encrypted volume,a list of open tickets,"
    "the contract from Rotterdam,messages older than ninety days,the customer's own key,a fallback in another region,"
    "the last known good release,a written justification,the partner's certificate,rows without an owner,"
    "the temperature log,requests above the agreed rate,a manual inspection,the previous schema,its own heartbeat"
)
ADVERBS = _phrases(
    "as a rule,during the first week of each month,unless the budget says otherwise,without further notice,"
    "in practice,since the incident in spring,whenever the load exceeds eighty percent,on request,by default,"
    "according to the agreement of last year,for historical reasons,outside of office hours"
)
TOPICS = _phrases(
    "Access,Billing,Capacity,Certificates,Delivery,Escalation,Export,Handover,Incidents,Inventory,Maintenance,"
    "Migration,Monitoring,Onboarding,Quotas,Recovery,Releases,Retention,Security,Suppliers"
)


def markdown_corpus(size: int, seed: int = 7) -> str:
    """About `size` characters of Markdown."""
    draw = random.Random(seed)
    pieces: list[str] = ["# Operations handbook\n\n"]
    length = chapter = 0
    while length < size:
        chapter += 1
        for piece in _chapter(draw, chapter):
            pieces.append(piece)
            length += len(piece)
            if length >= size:
                break
    return "".join(pieces)


def _chapter(draw: random.Random, chapter: int) -> list[str]:
    pieces = [f"## {chapter}. {draw.choice(TOPICS)} and {draw.choice(TOPICS).lower()}\n\n"]
    for section in range(1, draw.randint(3, 6)):
        pieces.append(f"### {chapter}.{section} {draw.choice(TOPICS)} of {draw.choice(SUBJECTS)}\n\n")
        pieces += [_paragraph(draw) for _ in range(draw.randint(2, 5))]
        pieces.append(draw.choice((_list, _table, _code, _paragraph))(draw))
    return pieces


def _sentence(draw: random.Random) -> str:
    clause = f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(OBJECTS)}"
    ending = f"{draw.choice(ADVERBS)} (reference {draw.choice('ABCDEFGH')}-{draw.randint(100, 9999)})"
    sentence = f"{clause} {ending}" if draw.random() < 0.4 else f"{clause}, {draw.choice(ADVERBS)}"
    return sentence[0].upper() + sentence[1:] + "."


def _paragraph(draw: random.Random) -> str:
    return " ".join(_sentence(draw) for _ in range(draw.randint(3, 7))) + "\n\n"


def _list(draw: random.Random) -> str:
    return "".join(f"- {_sentence(draw)}\n" for _ in range(draw.randint(3, 6))) + "\n"


def _table(draw: random.Random) -> str:
    rows = "".join(
        f"| {draw.choice(TOPICS)} | {draw.choice(SUBJECTS)} | {draw.randint(1, 500)} |\n"
        for _ in range(draw.randint(3, 8))
    )
    return f"| Topic | Owner | Hours |\n|---|---|---|\n{rows}\n"


def _code(draw: random.Random) -> str:
    lines = "".join(
        f"{draw.choice(TOPICS).lower()}.{draw.choice(TOPICS).lower()} = {draw.randint(1, 9000)}\n"
        for _ in range(draw.randint(3, 8))
    )
    return f"```ini\n{lines}```\n\n"
