-- Reserves the place of a further reply to a user's message, which becomes the head, in one statement and one round trip.
-- `p_message` is the user's message or one of its replies.
--
-- As in append_message: the conversation's row is locked first, so that sequences are gapless and the client's key finds
-- what was committed under it; the same limits hold, and the same reservation is made; a resend is never refused.
--
-- The reply begins a new branch right behind its message, unless nothing stands there, as in the copy that a fork makes
-- of a message without a reply.
CREATE FUNCTION regenerate_reply(
    p_user uuid, p_conversation uuid, p_message uuid, p_reply uuid, p_client_message_id text, p_actor text,
    p_turn_settings jsonb, p_owner uuid, p_reject_busy boolean, p_max_queue integer, p_max_pending integer,
    p_prompt_tokens integer, p_most_prompt_tokens integer, p_output_tokens integer,
    p_window text, p_max_tokens bigint, p_max_turns bigint,
    OUT outcome text, OUT reply_id uuid, OUT revision_before bigint, OUT pending_before integer, OUT quota jsonb
)
LANGUAGE plpgsql
AS $function$
#variable_conflict use_variable
DECLARE
    conversation conversations;
    named messages;
    message messages;
    stored record;
    turn_settings jsonb;
    branch integer;
    lineage integer[];
    reserved integer;
BEGIN
    PERFORM set_config('chatrpc.user_id', p_user::text, true);

    SELECT * INTO conversation FROM conversations c
    WHERE c.user_id = p_user AND c.id = p_conversation
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'no_conversation';
        RETURN;
    END IF;
    revision_before := conversation.revision;
    pending_before := conversation.pending_replies;

    SELECT * INTO named FROM messages m
    WHERE m.user_id = p_user AND m.id = p_message AND m.conversation_id = p_conversation;
    IF NOT FOUND THEN
        outcome := 'no_message';
        RETURN;
    END IF;
    message := named;
    IF named.role = 'assistant' THEN
        SELECT * INTO message FROM messages m WHERE m.user_id = p_user AND m.id = named.parent_id;
    END IF;

    SELECT m.id, m.role, m.parent_id INTO stored FROM messages m
    WHERE m.user_id = p_user AND m.conversation_id = p_conversation AND m.client_message_id = p_client_message_id;
    IF FOUND THEN
        outcome := CASE WHEN stored.role = 'assistant' AND stored.parent_id = message.id THEN 'duplicate' ELSE 'reused' END;
        reply_id := stored.id;
        RETURN;
    END IF;
    outcome := CASE
        WHEN message.state = 'erased' THEN 'erased'
        WHEN pending_before > 0 AND p_reject_busy THEN 'busy'
        WHEN pending_before > p_max_queue THEN 'queue_full'
        WHEN p_max_pending <= (
            SELECT count(*) FROM (
                SELECT FROM messages m WHERE m.user_id = p_user AND m.state = 'pending' LIMIT p_max_pending) unfinished)
        THEN 'too_many'
    END;
    IF outcome IS NOT NULL THEN
        RETURN;
    END IF;
    -- The conversation may name a model with a larger window than the caller knows of: its last prompt has told.
    reserved := least(
        conversation.context_tokens + p_prompt_tokens, greatest(p_most_prompt_tokens, conversation.context_tokens));
    IF p_window IS NOT NULL THEN
        quota := over_quota(p_user, reserved + p_output_tokens, p_window, p_max_tokens, p_max_turns);
        IF quota IS NOT NULL THEN
            outcome := 'over_quota';
            RETURN;
        END IF;
    END IF;
    outcome := 'accepted';
    reply_id := p_reply;

    SELECT b.lineage INTO lineage FROM branches b
    WHERE b.user_id = p_user AND b.conversation_id = p_conversation AND b.branch = message.branch;
    lineage := coalesce(lineage, '{}');
    branch := message.branch;
    IF EXISTS (
        SELECT FROM messages m
        WHERE m.user_id = p_user AND m.conversation_id = p_conversation
          AND m.branch = message.branch AND m.depth = message.depth + 1)
    THEN
        branch := conversation.last_branch + 1;
        lineage := lineage || ARRAY[message.branch, message.depth];
        INSERT INTO branches (user_id, conversation_id, branch, lineage)
        VALUES (p_user, p_conversation, branch, lineage);
    END IF;

    -- Without settings of its own, a reply has those of the message's turn.
    turn_settings := named.turn_settings;
    IF p_turn_settings IS NOT NULL THEN
        turn_settings := coalesce(named.turn_settings, message.turn_settings, '{}') || p_turn_settings;
    ELSIF named.role = 'user' THEN
        turn_settings := NULL;
    END IF;
    INSERT INTO messages (user_id, conversation_id, branch, depth, id, parent_id, sequence, role, state, parts, tokens,
                          client_message_id, actor, turn_settings, attempt, owner, reserved_prompt_tokens,
                          reserved_completion_tokens, created_at)
    VALUES (p_user, p_conversation, branch, message.depth + 1, p_reply, message.id, conversation.last_sequence + 1,
            'assistant', 'pending', '[]', 0, p_client_message_id, p_actor, turn_settings, 1, p_owner, reserved,
            p_output_tokens, now());

    UPDATE conversations c SET
        revision = conversation.revision + 1,
        head_id = p_reply,
        head_branch = branch,
        head_depth = message.depth + 1,
        lineage = lineage,
        last_branch = greatest(conversation.last_branch, branch),
        last_sequence = conversation.last_sequence + 1,
        pending_replies = conversation.pending_replies + 1,
        updated_at = now()
    WHERE c.user_id = p_user AND c.id = p_conversation;
    PERFORM mark_active(p_user, p_conversation);
END
$function$;
