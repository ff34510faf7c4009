"""The model's answers to one prompt: text and, as long as it calls tools, the calls, their results, the next answer."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import string
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from chatrpc.context.exchange import fitted, parts_tokens, reply_prompts
from chatrpc.domain import (
    AssembledContext,
    FinishReason,
    Part,
    Section,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolMode,
    ToolResultPart,
    TurnSettings,
    Usage,
)
from chatrpc.errors import ChatError, Reason, Unavailable
from chatrpc.ports import ChatModel, ModelFinished, ModelRequest, TextDelta, ToolCalled
from chatrpc.schemas import Schema, parse_json
from chatrpc.turns.content import ReplyContent
from chatrpc.turns.replay import failure
from chatrpc.turns.tool_results import ToolResults

# More characters than a token has on average: a provider that goes on beyond that ignores its limit.
LONGEST_TOKEN = 16
# Mistral takes ids of this form alone; others take any. A provider's own may be missing, or come twice.
_ID_LENGTH, _ID_LETTERS = 9, string.ascii_letters + string.digits
# Of the model's own words in the sentence that tells it what is wrong with them.
_QUOTED = 500


@dataclass(frozen=True, slots=True)
class RoundLimits:
    """How long one reply may go on.

    Attributes:
        seconds: Time that the model has, waits for results apart.
        tool_rounds: Rounds of tool calls.
        tool_seconds: Time until the results of a round are there.
    """

    seconds: float = 900.0
    tool_rounds: int = 8
    tool_seconds: float = 60.0


class Rounds:
    """Asks the model until it calls no further tool.

    Args:
        content: What the reply holds so far, for the next prompt. It grows by what is told.
        tell: Takes text, which may be held back for a moment.
        add: Takes a tool call or a result, after all text before it.

    Attributes:
        finish_reason, model: Of the last answer; the model is None before the first.
        usage: What all finished rounds cost.
        asking: Whether an answer is under way, or broke off, whose cost is not in `usage`.
    """

    def __init__(
        self,
        model: ChatModel,
        limits: RoundLimits,
        settings: TurnSettings,
        context: AssembledContext,
        content: ReplyContent,
        results: ToolResults,
        tell: Callable[[str], None],
        add: Callable[[Part], None],
    ) -> None:
        self.finish_reason = FinishReason.STOP
        self.model: str | None = None
        self.usage: Usage | None = None
        self.asking = False
        self._model = model
        self._limits = limits
        self._settings = settings
        self._context = context
        self._content = content
        self._results = results
        self._tell = tell
        self._add = add
        self._seconds_left = limits.seconds
        self._tools = {tool.name: _Checked(tool) for tool in settings.tools or ()}

    @property
    def exchange_tokens(self) -> int:
        """What tool calls and results so far cost in the next prompt."""
        return parts_tokens(self._content.parts) if self._tools else 0

    async def run(self) -> None:
        """Ask, and wait for results, until the reply is whole.

        Raises:
            ChatError: The model or a client failed; what was told stands.
        """
        wrong_before = False
        for number in itertools.count(1):
            called = await self._ask(number)
            if not called:
                return
            if number > self._limits.tool_rounds:
                raise failure(Reason.TOOL_ROUNDS_EXCEEDED)
            calls = [self._checked(call) for call in called]
            wrong = any(call.problem for call in calls)
            if wrong and wrong_before:
                raise failure(Reason.TOOL_ARGUMENTS_INVALID)
            wrong_before = wrong
            await self._carry_out(calls)

    async def _carry_out(self, calls: list[ToolCallPart]) -> None:
        """Tell a round of calls, and wait for their results."""
        pending = [call.id for call in calls if not call.problem]
        self._results.expect(pending)
        for call in calls:
            self._add(call)
        for call in calls:
            if call.problem:
                sentence = f"{call.problem} Nothing was done. You wrote: {call.arguments[:_QUOTED]}"
                self._add(ToolResultPart(call.id, sentence, failed=True))
        try:
            async with (
                asyncio.timeout(self._limits.tool_seconds),
                aclosing(self._results.results(len(pending))) as results,
            ):
                async for result in results:
                    self._add(result)
        except TimeoutError:
            raise failure(Reason.TOOL_RESULT_TIMED_OUT) from None

    async def _ask(self, number: int) -> list[ToolCalled]:
        """One answer of the model. Returns the tool calls that follow its text."""
        request = self._request(number)
        calls: list[ToolCalled] = []
        characters = 0
        clock = asyncio.get_running_loop().time
        began = clock()
        self.asking = True
        try:
            async with asyncio.timeout(self._seconds_left), aclosing(self._model.stream(request)) as events:
                async for event in events:
                    match event:
                        case TextDelta(text):
                            self._tell(text)
                            characters += len(text)
                        case ToolCalled():
                            calls.append(event)
                        case ModelFinished():
                            self._finished(event)
                    if characters > request.max_output_tokens * LONGEST_TOKEN:
                        self.finish_reason = FinishReason.LENGTH
                        return []
        except ChatError as error:
            # What fails before its first token is charged by no provider.
            self.asking = bool(characters or calls) or (isinstance(error, Unavailable) and error.begun)
            raise
        except TimeoutError:
            if not characters and not self._content.events:
                raise failure(Reason.TURN_TIMED_OUT) from None
            self.finish_reason = FinishReason.LENGTH
            return []
        finally:
            self._seconds_left -= clock() - began
        return calls

    def _finished(self, finished: ModelFinished) -> None:
        self.asking = False
        self.finish_reason = finished.reason
        self.model = finished.model
        self.usage = finished.usage if self.usage is None else self.usage + finished.usage

    def _request(self, number: int) -> ModelRequest:
        settings, context = self._settings, self._context
        wanted = settings.sampling.max_output_tokens or context.output_reserve
        exchange = reply_prompts(self._content.parts, Section.VERBATIM)
        room = context.exchange_room
        sent = fitted(exchange, room) if exchange else ()
        if sent is None:
            raise failure(Reason.TOOL_ROUNDS_EXCEEDED)
        return ModelRequest(
            prompt=(*context.prompt, *sent),
            model=settings.model,
            sampling=settings.sampling,
            max_output_tokens=min(wanted, context.output_reserve),
            tools=settings.tools or (),
            tool_choice=self._choice(number),
            response_schema=settings.response_schema,
        )

    def _choice(self, number: int) -> ToolChoice | None:
        if not self._tools:
            return None
        if number > self._limits.tool_rounds:
            return ToolChoice(ToolMode.NONE)
        choice = self._settings.tool_choice
        if choice is None or choice.mode is not ToolMode.REQUIRED:
            return choice
        # Whoever must call a tool again and again never comes to an answer.
        return choice if number == 1 and (choice.tool is None or choice.tool in self._tools) else None

    def _checked(self, call: ToolCalled) -> ToolCallPart:
        call_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))
        tool = self._tools.get(call.name)
        if tool is None:
            names = ", ".join(self._tools)
            return ToolCallPart(call_id, call.name, call.arguments, f"There is no tool of this name, only: {names}.")
        return ToolCallPart(call_id, call.name, call.arguments or "{}", tool.problem(call.arguments or "{}"))


class _Checked:
    """A tool with its schema ready for use."""

    def __init__(self, tool: Tool) -> None:
        self._schema = Schema(tool.parameters) if tool.parameters else None

    def problem(self, arguments: str) -> str:
        """What is wrong with the arguments; empty where nothing is."""
        try:
            value = parse_json(arguments)
        except ValueError as error:
            return f"The text of the arguments {error}."
        if not isinstance(value, dict):
            return "The arguments are not a JSON object."
        problem = None if self._schema is None else self._schema.problem(value)
        return "" if problem is None else f"The arguments do not fit the tool's parameters: {problem}."


def response_problem(schema: str, text: str) -> str | None:
    """What is wrong with a text that a response schema was asked for; None where nothing is."""
    try:
        value = parse_json(text)
    except ValueError as error:
        return str(error)
    return Schema(schema).problem(value)
