"""Builds what the language model is given for one message, and the account of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import structlog

from chatrpc.context.budget import Material, Query
from chatrpc.context.exchange import beside_tools, tools_tokens
from chatrpc.context.fitting import Fitting
from chatrpc.context.hot_path import HotPathCache
from chatrpc.context.prompt import POLICY_TOKENS, QUERY_OVERHEAD
from chatrpc.context.query import PendingQuery
from chatrpc.context.retrieval import Chosen, Found, Retriever, spans
from chatrpc.context.window import keeps_enough, through
from chatrpc.db.recall import Recall
from chatrpc.db.search import Sought, moment
from chatrpc.domain import (
    Accepted,
    AssembledContext,
    ContextReport,
    ConversationMemory,
    HotPath,
    Message,
    Part,
    Path,
    Reach,
    Reservation,
    RetrievalMode,
    RetrievalOutcome,
    TurnSettings,
    text_of,
)
from chatrpc.errors import NotFound
from chatrpc.models.embedding.template import TEMPLATE_TOKENS
from chatrpc.models.profiles import ModelProfiles
from chatrpc.ports import Embedder
from chatrpc.settings import ContextSettings
from chatrpc.tokens import estimate_tokens

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Request:
    """One context to build.

    Attributes:
        path: What the context may hold of the conversation; with the query where that is stored.
        hits_tokens: What the hits may cost together; None where only their number is limited.
        asked_at: What "yesterday" in the query is seen from.
        outcome: How the search ended, None while it has found anything to choose from.
    """

    user_id: UUID
    conversation_id: UUID
    path: Path
    query: Query
    pending: PendingQuery
    settings: TurnSettings
    memory: ConversationMemory
    hits: int
    hits_tokens: int | None
    asked_at: datetime
    started: float
    outcome: RetrievalOutcome | None = None

    @property
    def reach(self) -> Reach:
        return Reach.of(self.settings, self.memory)


class ContextAssembler:
    """Assembles contexts from the hot path, the summary and retrieved passages.

    A turn costs two statements, warm or cold: the search, together with the hot path where that is cold, and the texts
    of the best. For a user of very many passages, what needs no vector is done in statements of its own while the query
    is embedded.

    Args:
        space_id: The embedder's space in the database.
        profiles: What the models take; the budget is that of the model that answers the turn.
        model_name: Name of the model that would answer a request for the given one.
        shared_id: Owner of the documents that all users find; None where there are none.
    """

    def __init__(
        self,
        recall: Recall,
        embedder: Embedder,
        space_id: int,
        context: ContextSettings,
        profiles: ModelProfiles,
        model_name: Callable[[str | None], str],
        shared_id: UUID | None = None,
    ) -> None:
        self._recall = recall
        self._embedder = embedder
        self._settings = context
        self._profiles = profiles
        self._fitting = Fitting()
        self._model_name = model_name
        self._retriever = Retriever(recall, embedder.space, space_id, shared_id)
        self._cache = HotPathCache(context.cache_bytes)

    def reservation(self, settings: TurnSettings, tokens: int) -> Reservation:
        """What a turn may cost, as far as that can be told before its conversation is read.

        Args:
            settings: The turn's own.
            tokens: Of the message.
        """
        profile = self._profiles.of(self._model_name(settings.model))
        declared = tools_tokens(settings.tools or (), settings.response_schema)
        instruction = estimate_tokens(settings.system_instruction or "")
        around = POLICY_TOKENS + QUERY_OVERHEAD
        return Reservation(
            prompt_tokens=tokens + instruction + declared + self._settings.hits_tokens + around,
            most_prompt_tokens=profile.budget,
            completion_tokens=min(settings.sampling.max_output_tokens or profile.window, profile.output_reserve),
        )

    def query_tokens(self, message: Message) -> int:
        """Upper estimate of what the embedder reads of a message that is searched for."""
        return min(estimate_tokens(message.text) + TEMPLATE_TOKENS, self._embedder.space.max_tokens)

    def embed_query(self, parts: Sequence[Part]) -> PendingQuery:
        """Start to embed a message, at best before it is appended; give the result to `assemble`, or cancel it."""
        return PendingQuery(self._embedder, text_of(parts))

    async def assemble(
        self, user_id: UUID, accepted: Accepted, pending: PendingQuery | None = None
    ) -> AssembledContext:
        """The context for an accepted message: the path from the root to it, and nothing that came later.

        A slow or failing embedder or search costs the retrieved passages, not the reply; the report tells.

        Args:
            pending: The query's embedding where it was started before; this ends it in every case.

        Raises:
            NotFound: The conversation is gone.
            Unavailable: The hot path cannot be loaded.
        """
        started = time.perf_counter()
        message = accepted.message
        request = _Request(
            user_id=user_id,
            conversation_id=message.conversation_id,
            path=accepted.path,
            query=Query(message.id, message.sequence, message.text, message.tokens),
            pending=pending or self.embed_query(message.parts),
            settings=accepted.turn_settings.over(accepted.settings),
            memory=accepted.memory,
            hits=self._settings.hits,
            hits_tokens=self._settings.hits_tokens,
            asked_at=message.created_at,
            started=started,
        )
        revision = accepted.revision_before + (not accepted.duplicate)
        return await self._assemble(request, revision)

    async def preview(
        self,
        user_id: UUID,
        conversation_id: UUID,
        parts: Sequence[Part],
        settings: TurnSettings,
        max_retrieved: int | None,
    ) -> AssembledContext:
        """The context that a message would get if it were sent now, at the conversation's head.

        Raises:
            NotFound: No such conversation.
            Unavailable: The database cannot be reached.
        """
        pending = self.embed_query(parts)
        try:
            conversation = await self._recall.conversation(user_id, conversation_id)
        except BaseException:
            pending.cancel()
            raise
        text = text_of(parts)
        request = _Request(
            user_id=user_id,
            conversation_id=conversation_id,
            path=conversation.path,
            query=Query(None, 0, text, estimate_tokens(text)),
            pending=pending,
            settings=settings.over(conversation.settings),
            memory=conversation.memory,
            hits=self._settings.hits if max_retrieved is None else max_retrieved,
            hits_tokens=self._settings.hits_tokens if max_retrieved is None else None,
            asked_at=datetime.now(UTC),
            started=time.perf_counter(),
        )
        return await self._assemble(request, conversation.revision)

    def appended(self, user_id: UUID, accepted: Accepted) -> None:
        """Tell that this process has appended a message."""
        self._cache.appended(user_id, accepted)

    def finished(self, user_id: UUID, reply: Message, revision_before: int) -> None:
        """Tell that this process has finished a reply."""
        self._cache.finished(user_id, reply, revision_before)

    def forget(self, user_id: UUID, conversation_id: UUID) -> None:
        """Tell that a conversation was deleted."""
        self._cache.forget(user_id, conversation_id)

    async def _assemble(self, request: _Request, revision: int) -> AssembledContext:
        deadline = asyncio.get_running_loop().time() + self._settings.retrieval_timeout
        try:
            hot = self._cache.get(request.user_id, request.conversation_id, request.path, revision)
            if hot is not None and keeps_enough(hot.summary, request.path, self._keep(request)):
                found = await self._search(request, hot, deadline)
            else:
                hot, found = await self._load(request, deadline)
                self._cache.put(request.user_id, hot)
        finally:
            request.pending.cancel()
        return await self._build(request, hot, await self._choose(request, hot, found, deadline))

    def _keep(self, request: _Request) -> int:
        """Messages of the path that no summary may cover. A dry run's query is not on the path, but counts."""
        return self._settings.hot_path - (request.query.id is None)

    async def _search(self, request: _Request, hot: HotPath, deadline: float) -> Found | None:
        """The warm way: the hot path is here."""
        if self._nothing_to_search(request, hot):
            return None
        covered = () if hot.summary is None else through(request.path, hot.summary.anchor_depth)
        try:
            async with asyncio.timeout_at(deadline):
                sought = self._sought(request)
                return await self._retriever.find(
                    request.user_id, request.conversation_id, sought, request.pending, covered
                )
        except Exception as error:  # noqa: BLE001 - whatever a search dies of, the reply goes on.
            self._without_retrieval(request, error)
            return None

    async def _load(self, request: _Request, deadline: float) -> tuple[HotPath, Found | None]:
        """The cold way: hot path and search in one statement, the hot path alone where there is nothing to search."""
        key = (request.user_id, request.conversation_id, request.path)
        if self._retriever.begins_early(request.user_id, request.pending):
            # The vector is not there yet: what it is not needed for takes no time.
            hot = await self._recall.hot_path(*key, keep=self._keep(request))
            return hot, await self._search(request, hot, deadline)
        if request.hits:
            try:
                async with asyncio.timeout_at(deadline):
                    query = self._sought(request).with_vector(await request.pending.vector())
                    hot, pool = await self._recall.hot_path_and_pool(*key, query, keep=self._keep(request))
                self._retriever.note(request.user_id, pool)
                return hot, None if self._nothing_to_search(request, hot) else Found(query, pool)
            except NotFound:
                raise
            except Exception as error:  # noqa: BLE001 - as above; the hot path alone decides.
                self._without_retrieval(request, error)
        hot = await self._recall.hot_path(*key, keep=self._keep(request))
        if request.outcome is None:
            self._nothing_to_search(request, hot)
        return hot, None

    def _nothing_to_search(self, request: _Request, hot: HotPath) -> bool:
        reach = request.reach
        if request.hits and (reach.elsewhere or reach.documents or hot.summary is not None):
            return False
        request.outcome = RetrievalOutcome.DISABLED
        return True

    def _sought(self, request: _Request) -> Sought:
        reach = request.reach
        return self._retriever.sought(
            request.pending.text, elsewhere=reach.elsewhere, collections=None if reach.documents else ()
        )

    async def _choose(self, request: _Request, hot: HotPath, found: Found | None, deadline: float) -> Chosen:
        """What enters of that which was found."""
        if found is None:
            return Chosen((), ())
        before = (message.text for message in hot.messages if message.id != request.query.id)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._retriever.choose(
                    request.user_id,
                    found,
                    mode=request.settings.retrieval_mode or RetrievalMode.CALIBRATED,
                    limit=request.hits,
                    spans=spans(request.pending.text, request.asked_at),
                    verbatim_ids={message.id for message in hot.messages},
                    verbatim_places={(moment(message.created_at), message.depth) for message in hot.messages},
                    verbatim_texts=[request.query.text, *before],
                    tokens=request.hits_tokens,
                )
        except Exception as error:  # noqa: BLE001 - as above.
            self._without_retrieval(request, error)
            return Chosen((), ())

    @staticmethod
    def _without_retrieval(request: _Request, error: Exception) -> None:
        timed_out = isinstance(error, TimeoutError)
        request.outcome = RetrievalOutcome.TIMED_OUT if timed_out else RetrievalOutcome.FAILED
        log.warning(
            "retrieval_failed",
            conversation_id=str(request.conversation_id),
            outcome=request.outcome.value,
            exc_info=None if timed_out else error,
        )

    async def _build(self, request: _Request, hot: HotPath, chosen: Chosen) -> AssembledContext:
        query = request.query
        before = tuple(message for message in hot.messages if message.id != query.id)
        model = self._model_name(request.settings.model)
        profile, exchange = beside_tools(self._profiles.of(model), request.settings)
        instruction = request.settings.system_instruction or ""
        fitted = await self._fitting.fit(profile, Material(instruction, hot.summary, before, chosen.hits, query))
        outcome = request.outcome or (RetrievalOutcome.FOUND if fitted.hits else RetrievalOutcome.NOTHING_RELEVANT)
        summary = fitted.summary
        report = ContextReport(
            conversation_id=request.conversation_id,
            query_message_id=query.id,
            revision=hot.revision,
            summary_version=None if summary is None else summary.version,
            summary_anchor_id=None if summary is None else summary.anchor_id,
            summarized_through_depth=0 if summary is None else summary.anchor_depth,
            verbatim=fitted.verbatim,
            retrieval=outcome,
            hits=fitted.hits,
            dropped=(*fitted.dropped, *chosen.dropped),
            section_tokens=fitted.tokens,
            budget_tokens=profile.budget,
            embedding_model=self._embedder.space.name,
            model=model,
            assembly_micros=round((time.perf_counter() - request.started - request.pending.waited) * 1e6),
            embedding_micros=request.pending.micros,
            summary_rebuilding=hot.rebuilding,
            fact_count=0 if summary is None else len(summary.facts),
        )
        unfinished = tuple(message.id for message in before if not message.state.finished)
        left = profile.budget - sum(fitted.tokens.values())
        return AssembledContext(fitted.written, report, profile.output_reserve, exchange + left, unfinished)
