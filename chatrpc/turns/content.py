"""What a running reply holds so far, in the order in which it came."""

from __future__ import annotations

from chatrpc.domain import Part, TextPart


class ReplyContent:
    """Grows by deltas of text and by tool calls and results.

    Attributes:
        delta_ends: Length of all text in code points after each delta.
    """

    def __init__(self) -> None:
        self.delta_ends: list[int] = []
        self._closed: list[Part] = []
        self._pieces: list[str] = []

    @property
    def parts(self) -> tuple[Part, ...]:
        text = self.last_text
        return (*self._closed, TextPart(text)) if text else tuple(self._closed)

    @property
    def last_text(self) -> str:
        """The text after the last tool call or result."""
        return "".join(self._pieces)

    @property
    def events(self) -> int:
        """How many additions there were; it grows with each."""
        return len(self.delta_ends) + len(self._closed)

    def push(self, text: str) -> None:
        before = self.delta_ends[-1] if self.delta_ends else 0
        self.delta_ends.append(before + len(text))
        self._pieces.append(text)

    def add(self, part: Part) -> None:
        """A tool call or a result."""
        self._closed = [*self.parts, part]
        self._pieces.clear()

    def clear(self) -> None:
        self.delta_ends.clear()
        self._closed.clear()
        self._pieces.clear()
