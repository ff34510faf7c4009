"""Whatever cuts the streams, a reader sees every event of the last attempt, once and in order."""

from __future__ import annotations

from dataclasses import dataclass

from chatapi.v1 import chat_service_pb2 as pb
from grpc import StatusCode
from hypothesis import given, settings
from hypothesis import strategies as st

from chatrpc.client import text_message
from tests.client.scripted import CONVERSATION, Line, completed, delta, restarted, staged


@dataclass(frozen=True)
class Cut:
    """What befalls a stream: so many events are told, then it ends, and perhaps the reply begins anew."""

    events: int
    code: StatusCode
    before_acceptance: bool
    anew: bool


cuts = st.lists(
    st.builds(
        Cut,
        st.integers(0, 4),
        st.sampled_from([StatusCode.UNAVAILABLE, StatusCode.INTERNAL, StatusCode.UNKNOWN]),
        st.booleans(),
        st.booleans(),
    ),
    max_size=5,
)


class Reply:
    """A stored reply, told from any event on, the way the contract says."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.attempt = 1
        self.keys: set[str] = set()

    @property
    def events(self) -> list[pb.ReplyEvent]:
        first = [restarted(self.attempt)] if self.attempt > 1 else []
        told = [delta(len(first) + n, self._word(word), self.attempt) for n, word in enumerate(self.words, start=1)]
        return [*first, *told, completed(len(first) + len(told) + 1, self.text, self.attempt)]

    @property
    def text(self) -> str:
        return "".join(self._word(word) for word in self.words)

    def _word(self, word: str) -> str:
        # A second generation differs from the first.
        return f"{word}{self.attempt} "

    def script(self, cut: Cut | None):
        async def follow(line: Line) -> None:
            request = await line.hear_any()
            events = self.events
            if request.WhichOneof("event") == "send":
                self.keys.add(request.send.client_message_id)
                if cut is not None and cut.before_acceptance:
                    await line.end(cut.code)
                await line.accept(request)
            elif request.resume.attempt == self.attempt:
                events = events[request.resume.after_sequence :]
            await line.tell(*events[: None if cut is None else cut.events])
            if cut is None:
                await line.closed()
            else:
                # Events that are written just before an abort may be lost, as on a real cut.
                self.attempt += cut.anew and cut.events < len(events)
                await line.end(cut.code)

        return follow


@settings(max_examples=30, deadline=None)
@given(words=st.lists(st.sampled_from(["so", "it", "goes"]), max_size=5), cuts=cuts)
async def test_a_reader_sees_each_event_of_the_last_attempt_once(words: list[str], cuts: list[Cut]) -> None:
    reply = Reply(words)
    async with staged(*(reply.script(cut) for cut in cuts), reply.script(None)) as stage:
        async with stage.client.chat() as session:
            turn = await session.send(text_message(CONVERSATION, "hello"))
            seen = [(event.attempt, event.sequence) async for event in turn]
        # Where a cut came after the last event, no further stream is needed.
        stage.chat.scripts.clear()
    assert len(reply.keys) == 1
    last = turn.message
    assert last is not None
    attempt = max(seen)[0]
    assert seen == sorted(set(seen))
    assert [sequence for number, sequence in seen if number == attempt] == list(
        range(1, len([event for event in seen if event[0] == attempt]) + 1)
    )
    assert turn.text == last.parts[0].text.text
