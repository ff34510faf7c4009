"""The cache of hot paths against a plain model of the database, under writes of this and of other processes."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chatrpc.context.hot_path import HotPathCache
from chatrpc.domain import Accepted, HotPath, MessageState, TextPart, TurnSettings
from tests.context.conversation import CONVERSATION, message, summary

USER = uuid4()
MEBIBYTE = 1024 * 1024


class Conversation:
    """What the database holds: a tree of messages, summaries, settings, and the history of all by revision."""

    def __init__(self):
        self.messages = {}
        self.paths = {None: ()}
        self.summaries = []
        self.settings = TurnSettings()
        self.revision = 0
        self.head = None
        self.branches = 0
        self.history = {}
        self.record()

    def record(self):
        self.history[self.revision] = (dict(self.messages), list(self.summaries), self.settings)

    def chain(self, message_id, messages):
        found = []
        while message_id is not None:
            found.append(messages[message_id])
            message_id = messages[message_id].parent_id
        return tuple(reversed(found))

    def append(self, parent):
        depth = len(self.chain(parent, self.messages)) + 1
        before = self.paths[parent]
        branch = before[-1][0] if before else 0
        if parent != self.head:
            self.branches += 1
            branch = self.branches
        said = message(depth, f"question {len(self.messages)}", branch=branch, parent_id=parent)
        reply = message(depth + 1, "", state=MessageState.PENDING, branch=branch, parent_id=said.id)
        kept = before[:-1] if before and before[-1][0] == branch else before
        self.paths[said.id] = (*kept, (branch, depth))
        self.paths[reply.id] = (*kept, (branch, depth + 1))
        self.messages |= {said.id: said, reply.id: reply}
        return self.accepted(said, reply)

    def regenerate(self, said):
        self.branches += 1
        reply = message(said.depth + 1, "", state=MessageState.PENDING, branch=self.branches, parent_id=said.id)
        self.paths[reply.id] = (*self.paths[said.id], (self.branches, said.depth + 1))
        self.messages[reply.id] = reply
        return self.accepted(said, reply)

    def accepted(self, said, reply):
        self.head = reply.id
        self.revision += 1
        self.record()
        return Accepted(
            message=said,
            reply=reply,
            path=self.paths[said.id],
            duplicate=False,
            parent_pending=False,
            revision_before=self.revision - 1,
            settings=self.settings,
            turn_settings=TurnSettings(),
        )

    def finish(self, reply_id, state):
        reply = replace(
            self.messages[reply_id], state=state, parts=(TextPart(f"answer {len(self.history)}"),), delta_ends=(8,)
        )
        self.messages[reply_id] = reply
        self.revision += 1
        self.record()
        return reply

    def hot_path(self, message_id, revision):
        """The state at a revision, without the deltas that no context needs."""
        messages, summaries, settings_then = self.history[revision]
        chain = self.chain(message_id, messages)
        ids = {each.id for each in chain}
        newest = next((each for each in reversed(summaries) if each.anchor_id in ids), None)
        depth = 0 if newest is None else newest.anchor_depth
        return HotPath(
            conversation_id=CONVERSATION,
            revision=revision,
            settings=settings_then,
            path=self.paths[message_id],
            summary=newest,
            messages=tuple(replace(each, delta_ends=()) for each in chain[depth:]),
        )


class CacheMachine(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.database = Conversation()
        self.cache = HotPathCache(MEBIBYTE)
        self.turns = []
        self.own_revision = 0

    def replies(self, state):
        messages = self.database.messages.values()
        return [each for each in messages if each.parent_id is not None and each.depth % 2 == 0 and each.state is state]

    def parents(self, data):
        finished = [each.id for each in self.replies(MessageState.COMPLETE)]
        return data.draw(st.sampled_from([self.database.head, self.database.head, *finished]))

    @rule(data=st.data(), told=st.booleans())
    def append_here(self, data, told):
        accepted = self.database.append(self.parents(data))
        self.turns.append(accepted)
        # An append whose message this process never hears of, because it was cancelled in between, must not matter.
        if told:
            self.cache.appended(USER, accepted)
        self.look_up(accepted)

    @rule(data=st.data())
    def append_elsewhere(self, data):
        self.turns.append(self.database.append(self.parents(data)))

    @precondition(lambda self: self.turns)
    @rule(data=st.data())
    def regenerate(self, data):
        accepted = self.database.regenerate(data.draw(st.sampled_from(self.turns)).message)
        self.turns.append(accepted)
        self.look_up(accepted)

    @precondition(lambda self: self.replies(MessageState.PENDING))
    @rule(data=st.data(), here=st.booleans(), state=st.sampled_from([MessageState.COMPLETE, MessageState.CANCELLED]))
    def finish(self, data, here, state):
        pending = data.draw(st.sampled_from(self.replies(MessageState.PENDING)))
        before = self.database.revision
        reply = self.database.finish(pending.id, state)
        if here:
            self.cache.finished(USER, reply, before)

    @rule()
    def change_settings_elsewhere(self):
        self.database.settings = TurnSettings(system_instruction=f"at {self.database.revision}")
        self.database.revision += 1
        self.database.record()

    @precondition(lambda self: self.replies(MessageState.COMPLETE))
    @rule(data=st.data())
    def summarise(self, data):
        anchor = data.draw(st.sampled_from(self.replies(MessageState.COMPLETE)))
        self.database.summaries.append(summary(anchor, version=len(self.database.summaries) + 1))
        self.database.revision += 1
        self.database.record()

    @precondition(lambda self: self.turns)
    @rule(data=st.data())
    def load(self, data):
        turn = data.draw(st.sampled_from(self.turns[-4:]))
        self.cache.put(USER, self.database.hot_path(turn.message.id, self.database.revision))

    @precondition(lambda self: self.turns)
    @rule(data=st.data())
    def send_again(self, data):
        turn = data.draw(st.sampled_from(self.turns))
        again = replace(turn, duplicate=True, revision_before=self.database.revision)
        self.cache.appended(USER, again)
        found = self.cache.get(USER, CONVERSATION, turn.path, self.database.revision)
        assert found in (None, self.database.hot_path(turn.message.id, self.database.revision))

    @precondition(lambda self: self.turns)
    @rule(data=st.data())
    def look_up_a_queued_turn(self, data):
        self.look_up(data.draw(st.sampled_from(self.turns)))

    def look_up(self, turn):
        """What the cache gives is the state at its revision, and that is no older than the turn's append."""
        found = self.cache.get(USER, CONVERSATION, turn.path, turn.revision_before + 1)
        if found is not None:
            assert found.revision > turn.revision_before
            assert found == self.database.hot_path(turn.message.id, found.revision)
            assert all(each.state.finished for each in found.messages)

    @invariant()
    def stays_within_its_bytes(self):
        assert self.cache.bytes <= MEBIBYTE


TestNeverStale = CacheMachine.TestCase
TestNeverStale.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def grown(database, cache, turns):
    for _ in range(turns):
        accepted = database.append(database.head)
        cache.appended(USER, accepted)
        before = database.revision
        cache.finished(USER, database.finish(accepted.reply.id, MessageState.COMPLETE), before)


def test_a_conversation_that_one_process_writes_stays_cached():
    database, cache = Conversation(), HotPathCache(MEBIBYTE)
    first = database.append(None)
    cache.put(USER, database.hot_path(first.message.id, database.revision))
    before = database.revision
    cache.finished(USER, database.finish(first.reply.id, MessageState.COMPLETE), before)
    grown(database, cache, 5)
    last = database.append(database.head)
    cache.appended(USER, last)
    found = cache.get(USER, CONVERSATION, last.path, last.revision_before + 1)
    assert found == database.hot_path(last.message.id, database.revision)
    assert len(found.messages) == 13
    # What it has grown by is counted like what is loaded.
    loaded = HotPathCache(MEBIBYTE)
    loaded.put(USER, database.hot_path(last.reply.id, database.revision))
    assert cache.bytes == loaded.bytes


def test_a_queued_turn_gets_its_own_path_although_later_messages_are_cached():
    database, cache = Conversation(), HotPathCache(MEBIBYTE)
    first = database.append(None)
    cache.put(USER, database.hot_path(first.message.id, database.revision))
    cache.finished(USER, database.finish(first.reply.id, MessageState.COMPLETE), database.revision - 1)
    second, third = database.append(database.head), None
    cache.appended(USER, second)
    third = database.append(database.head)
    cache.appended(USER, third)
    found = cache.get(USER, CONVERSATION, second.path, second.revision_before + 1)
    assert [each.id for each in found.messages] == [first.message.id, first.reply.id, second.message.id]
    assert cache.get(USER, CONVERSATION, third.path, third.revision_before + 1) is None
    cache.finished(USER, database.finish(second.reply.id, MessageState.COMPLETE), database.revision - 1)
    assert len(cache.get(USER, CONVERSATION, third.path, third.revision_before + 1).messages) == 5


def test_one_user_does_not_see_what_another_caches():
    database, cache = Conversation(), HotPathCache(MEBIBYTE)
    first = database.append(None)
    cache.put(USER, database.hot_path(first.message.id, database.revision))
    assert cache.get(USER, CONVERSATION, first.path, 0) is not None
    assert cache.get(uuid4(), CONVERSATION, first.path, 0) is None


def test_the_least_recently_used_conversations_leave_first():
    cache = HotPathCache(40_000)
    hot_paths = []
    for _ in range(4):
        said = message(1, "x" * 10_000)
        hot_paths.append(HotPath(uuid4(), 1, TurnSettings(), ((0, 1),), None, (said,)))
    for hot in hot_paths[:3]:
        cache.put(USER, hot)
    assert cache.get(USER, hot_paths[0].conversation_id, ((0, 1),), 1) is not None
    cache.put(USER, hot_paths[3])
    kept = [cache.get(USER, hot.conversation_id, ((0, 1),), 1) is not None for hot in hot_paths]
    assert kept == [True, False, True, True]


def test_a_hot_path_larger_than_the_whole_cache_is_not_kept():
    cache = HotPathCache(5_000)
    cache.put(USER, HotPath(CONVERSATION, 1, TurnSettings(), ((0, 1),), None, (message(1, "x" * 10_000),)))
    assert cache.get(USER, CONVERSATION, ((0, 1),), 1) is None
    assert cache.bytes == 0


def test_a_forgotten_conversation_is_loaded_anew():
    cache = HotPathCache(MEBIBYTE)
    cache.put(USER, HotPath(CONVERSATION, 1, TurnSettings(), ((0, 1),), None, (message(1),)))
    cache.forget(USER, CONVERSATION)
    assert cache.get(USER, CONVERSATION, ((0, 1),), 1) is None
    assert cache.bytes == 0


def test_a_conversation_goes_on_from_a_regenerated_reply_without_a_reload():
    database, cache = Conversation(), HotPathCache(MEBIBYTE)
    first = database.append(None)
    database.finish(first.reply.id, MessageState.COMPLETE)
    again = database.regenerate(first.message)
    cache.put(USER, database.hot_path(first.message.id, database.revision))
    before = database.revision
    cache.finished(USER, database.finish(again.reply.id, MessageState.COMPLETE), before)
    path = database.paths[again.reply.id]
    assert path == ((0, 1), (1, 2))
    found = cache.get(USER, CONVERSATION, path, database.revision)
    assert found == database.hot_path(again.reply.id, database.revision)
    grown(database, cache, 1)
    last = database.append(database.head)
    cache.appended(USER, last)
    found = cache.get(USER, CONVERSATION, last.path, last.revision_before + 1)
    assert found == database.hot_path(last.message.id, database.revision)
