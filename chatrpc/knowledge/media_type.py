"""The media types of documents that can be read."""

from __future__ import annotations

from email.message import Message

PLAIN = "text/plain"
MARKDOWN = "text/markdown"
HTML = "text/html"
PDF = "application/pdf"
SUPPORTED = (PLAIN, MARKDOWN, HTML, PDF)


def media_type_of(value: str) -> tuple[str, str | None]:
    """The type in lower case, and its charset where it names one."""
    message = Message()
    message["content-type"] = value
    return message.get_content_type(), message.get_content_charset()
