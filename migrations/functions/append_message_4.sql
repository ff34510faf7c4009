-- Accepts a message, reserves its reply's place and what the reply may cost, in one statement and one round trip.
--
-- The conversation's row is locked first, so that appends to it are serial: sequences are gapless, and a client's key
-- that is not found is not taken. (A single INSERT ... ON CONFLICT without the lock cannot do this: it decides by a
-- snapshot taken before it waits.)
--
-- Where replies of the conversation are not finished yet, the message is queued behind them, or refused, by
-- p_reject_busy and p_max_queue; p_max_pending bounds the unfinished replies of the user, roughly, since sends to other
-- conversations are counted as they are committed.
--
-- The reservation stands in the pending reply's own row, so it lasts as long as the reply is pending, whatever becomes
-- of its process. It is an estimate: what the conversation's last prompt came to, and p_prompt_tokens for what is new,
-- at most p_most_prompt_tokens, if the last one was no longer; and p_output_tokens. Where the user has a quota (p_window
-- is not null), a message whose reservation does not fit into what is left of it is refused as `over_quota`, before
-- anything is stored.
--
-- A resend is never refused, whatever the limits.
--
-- Few statements, since each costs 10 to 30 us: an assignment is cheaper than PERFORM, one INSERT of two rows than two,
-- and looking for the key than ON CONFLICT.
CREATE FUNCTION append_message(
    p_user uuid, p_conversation uuid, p_message uuid, p_reply uuid, p_client_message_id text, p_content_hash bytea,
    p_parent uuid, p_parts jsonb, p_tokens integer, p_actor text, p_turn_settings jsonb, p_owner uuid,
    p_reject_busy boolean, p_max_queue integer, p_max_pending integer,
    p_prompt_tokens integer, p_most_prompt_tokens integer, p_output_tokens integer,
    p_window text, p_max_tokens bigint, p_max_turns bigint,
    OUT outcome text, OUT message_id uuid, OUT parent_id uuid, OUT sequence bigint, OUT branch integer,
    OUT depth integer, OUT lineage integer[], OUT revision_before bigint, OUT settings jsonb, OUT created_at timestamptz,
    OUT parent_state text, OUT memory text, OUT pending_before integer, OUT quota jsonb
)
LANGUAGE plpgsql
AS $function$
#variable_conflict use_variable
DECLARE
    conversation conversations;
    parent record;
    stored record;
    branches_off boolean;
    reserved integer;
BEGIN
    outcome := set_config('chatrpc.user_id', p_user::text, true);

    SELECT * INTO conversation FROM conversations c
    WHERE c.user_id = p_user AND c.id = p_conversation
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'no_conversation';
        RETURN;
    END IF;
    revision_before := conversation.revision;
    settings := conversation.settings;
    memory := conversation.memory;
    pending_before := conversation.pending_replies;

    SELECT m.id, m.content_hash, m.state, m.role INTO stored FROM messages m
    WHERE m.user_id = p_user AND m.conversation_id = p_conversation AND m.client_message_id = p_client_message_id;
    IF FOUND THEN
        -- Of an erased message nothing is left to compare with, and a resend must not bring it back. The key of a
        -- regenerated reply is no message's.
        outcome := CASE WHEN stored.role = 'user' AND (stored.state = 'erased' OR stored.content_hash = p_content_hash)
                        THEN 'duplicate' ELSE 'reused' END;
        message_id := stored.id;
        RETURN;
    END IF;

    branches_off := p_parent IS NOT NULL AND p_parent IS DISTINCT FROM conversation.head_id;
    IF branches_off THEN
        SELECT m.branch, m.depth, m.role, m.state INTO parent FROM messages m
        WHERE m.user_id = p_user AND m.id = p_parent AND m.conversation_id = p_conversation;
        IF NOT FOUND THEN
            outcome := 'no_parent';
            RETURN;
        ELSIF parent.role <> 'assistant' THEN
            outcome := 'parent_not_reply';
            RETURN;
        END IF;
        parent_id := p_parent;
        parent_state := parent.state;
        branch := conversation.last_branch + 1;
        depth := parent.depth + 1;
        SELECT b.lineage INTO lineage FROM branches b
        WHERE b.user_id = p_user AND b.conversation_id = p_conversation AND b.branch = parent.branch;
        lineage := coalesce(lineage, '{}') || ARRAY[parent.branch, parent.depth];
    ELSE
        parent_id := conversation.head_id;
        branch := conversation.head_branch;
        depth := conversation.head_depth + 1;
        lineage := conversation.lineage;
        IF conversation.pending_replies > 0 THEN
            SELECT m.state INTO parent_state FROM messages m
            WHERE m.user_id = p_user AND m.conversation_id = p_conversation
              AND m.branch = conversation.head_branch AND m.depth = conversation.head_depth;
        END IF;
    END IF;

    outcome := CASE
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
    message_id := p_message;
    sequence := conversation.last_sequence + 1;
    created_at := now();
    INSERT INTO messages (user_id, conversation_id, branch, depth, id, parent_id, sequence, role, state, parts, tokens,
                          client_message_id, content_hash, turn_settings, actor, attempt, owner,
                          reserved_prompt_tokens, reserved_completion_tokens, created_at)
    VALUES (p_user, p_conversation, branch, depth, p_message, parent_id, sequence, 'user', 'complete', p_parts,
            p_tokens, p_client_message_id, p_content_hash, p_turn_settings, p_actor, 0, NULL, NULL, NULL, created_at),
           (p_user, p_conversation, branch, depth + 1, p_reply, p_message, sequence + 1, 'assistant', 'pending', '[]',
            0, NULL, NULL, NULL, NULL, 1, p_owner, reserved, p_output_tokens, created_at);

    UPDATE conversations c SET
        revision = conversation.revision + 1,
        head_id = p_reply,
        head_branch = append_message.branch,
        head_depth = append_message.depth + 1,
        lineage = append_message.lineage,
        last_branch = greatest(conversation.last_branch, append_message.branch),
        last_sequence = append_message.sequence + 1,
        pending_replies = conversation.pending_replies + 1,
        updated_at = append_message.created_at
    WHERE c.user_id = p_user AND c.id = p_conversation;

    IF branches_off THEN
        INSERT INTO branches (user_id, conversation_id, branch, lineage)
        VALUES (p_user, p_conversation, branch, lineage);
        -- Other conversations retrieve from the active paths of remembered ones alone.
        IF memory = 'remembered' THEN
            UPDATE embeddings e SET active = on_path(e.branch, e.depth, lineage)
            WHERE e.user_id = p_user AND e.conversation_id = p_conversation
              AND e.active <> on_path(e.branch, e.depth, lineage);
        END IF;
    END IF;
END
$function$;
