-- Accepts a message, reserves its reply's place and what the reply may cost, in one statement and one round trip.
--
-- The update of the conversation's row comes first, so that appends to it are serial and sequences gapless: whoever
-- comes second waits for it, and goes on from what the first has left. Nothing is looked up that the update or the
-- insert can tell: the limits are conditions of the update, and a client's key that is taken fails the insert, which
-- undoes the update, too. Why nothing was updated is asked only then. (A single INSERT ... ON CONFLICT cannot do this:
-- it decides by a snapshot taken before it waits.)
--
-- Where replies of the conversation are not finished yet, the message is queued behind them, or refused, by
-- p_reject_busy and p_max_queue; p_max_pending, at least 1, bounds the unfinished replies of the user, roughly, since
-- sends to other conversations are counted as they are committed.
--
-- The reservation stands in the pending reply's own row, so it lasts as long as the reply is pending, whatever becomes
-- of its process. It is an estimate: what the conversation's last prompt came to, and p_prompt_tokens for what is new,
-- at most p_most_prompt_tokens, if the last one was no longer; and p_output_tokens. Where the user has a quota
-- (p_window is not null), a message whose reservation does not fit into what is left of it is refused as `over_quota`.
--
-- A resend is never refused, whatever the limits: before any refusal, the key is looked for.
--
-- Of an append's 100 us, the update takes 40, the condition on the user's other replies in it 10, the insert 45, and
-- the block that can be undone 6 (and a second transaction id); looking for the key first took 20, and locking the
-- conversation by a statement of its own 25. An assignment takes 1 or 2, so the update returns into the results.
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
    conversation record;
    parent record;
    stored record;
    branches_off boolean := false;
    reserved integer;
BEGIN
    outcome := set_config('chatrpc.user_id', p_user::text, true);
    BEGIN
        -- A large message is dear to write and to undo, as a resend would be again and again: its key is looked for first.
        IF pg_column_size(p_parts) > 2000 AND EXISTS (
            SELECT FROM messages m WHERE m.user_id = p_user AND m.conversation_id = p_conversation
                                     AND m.client_message_id = p_client_message_id)
        THEN
            outcome := 'no_conversation';  -- should it be erased before it is read
            RAISE SQLSTATE 'RFUSE';
        END IF;
        LOOP
            -- RETURNING knows nothing of the old row before PostgreSQL 18, so the new one keeps its head.
            UPDATE conversations c SET
                revision = c.revision + 1,
                previous_head_id = c.head_id,
                head_id = p_reply,
                head_branch = CASE WHEN branches_off THEN c.last_branch + 1 ELSE c.head_branch END,
                head_depth = CASE WHEN branches_off THEN depth - 1 ELSE c.head_depth END + 2,
                lineage = CASE WHEN branches_off THEN lineage ELSE c.lineage END,
                last_branch = c.last_branch + branches_off::integer,
                last_sequence = c.last_sequence + 2,
                pending_replies = c.pending_replies + 1,
                updated_at = now()
            WHERE c.user_id = p_user AND c.id = p_conversation
              AND (p_parent IS NULL OR p_parent = c.head_id OR branches_off)
              AND c.pending_replies <= p_max_queue AND NOT (p_reject_busy AND c.pending_replies > 0)
              AND NOT EXISTS (
                  SELECT FROM messages m WHERE m.user_id = p_user AND m.state = 'pending' OFFSET p_max_pending - 1)
            RETURNING 'accepted', CASE WHEN branches_off THEN p_parent ELSE c.previous_head_id END, c.last_sequence - 1,
                      c.head_branch, c.head_depth - 1, c.lineage, c.revision - 1, c.settings,
                      c.updated_at, c.memory, c.pending_replies - 1,
                      -- The conversation may name a model with a larger window than the caller knows of: its last
                      -- prompt has told.
                      least(c.context_tokens + p_prompt_tokens, greatest(p_most_prompt_tokens, c.context_tokens))
            INTO outcome, parent_id, sequence, branch, depth, lineage, revision_before, settings, created_at, memory,
                 pending_before, reserved;
            EXIT WHEN FOUND;

            -- Why not? From here on, the conversation stands still.
            SELECT c.head_id, c.pending_replies INTO conversation FROM conversations c
            WHERE c.user_id = p_user AND c.id = p_conversation
            FOR NO KEY UPDATE;
            IF NOT FOUND THEN
                outcome := 'no_conversation';
                RETURN;
            END IF;
            branches_off := p_parent IS NOT NULL AND p_parent IS DISTINCT FROM conversation.head_id;
            IF branches_off THEN
                SELECT m.branch, m.depth, m.role, m.state, b.lineage INTO parent
                FROM messages m
                LEFT JOIN branches b
                    ON b.user_id = p_user AND b.conversation_id = p_conversation AND b.branch = m.branch
                WHERE m.user_id = p_user AND m.id = p_parent AND m.conversation_id = p_conversation;
                IF NOT FOUND THEN
                    outcome := 'no_parent';
                ELSIF parent.role <> 'assistant' THEN
                    outcome := 'parent_not_reply';
                END IF;
                parent_state := parent.state;
                depth := parent.depth + 1;
                lineage := coalesce(parent.lineage, '{}') || ARRAY[parent.branch, parent.depth];
            END IF;
            outcome := coalesce(outcome, CASE
                WHEN conversation.pending_replies > 0 AND p_reject_busy THEN 'busy'
                WHEN conversation.pending_replies > p_max_queue THEN 'queue_full'
                WHEN EXISTS (
                    SELECT FROM messages m WHERE m.user_id = p_user AND m.state = 'pending' OFFSET p_max_pending - 1)
                THEN 'too_many'
            END);
            IF outcome IS NOT NULL THEN
                RAISE SQLSTATE 'RFUSE';
            END IF;
        END LOOP;

        IF p_window IS NOT NULL THEN
            quota := over_quota(p_user, reserved + p_output_tokens, p_window, p_max_tokens, p_max_turns);
            IF quota IS NOT NULL THEN
                outcome := 'over_quota';
                RAISE SQLSTATE 'RFUSE';
            END IF;
        END IF;
        IF pending_before > 0 AND NOT branches_off THEN
            SELECT m.state INTO parent_state FROM messages m
            WHERE m.user_id = p_user AND m.conversation_id = p_conversation
              AND m.branch = branch AND m.depth = depth - 1;
        END IF;
        INSERT INTO messages (user_id, conversation_id, branch, depth, id, parent_id, sequence, role, state, parts,
                              tokens, client_message_id, content_hash, turn_settings, actor, attempt, owner,
                              reserved_prompt_tokens, reserved_completion_tokens, created_at)
        VALUES (p_user, p_conversation, branch, depth, p_message, parent_id, sequence, 'user', 'complete', p_parts,
                p_tokens, p_client_message_id, p_content_hash, p_turn_settings, p_actor, 0, NULL,
                NULL, NULL, created_at),
               (p_user, p_conversation, branch, depth + 1, p_reply, p_message, sequence + 1, 'assistant', 'pending',
                '[]', 0, NULL, NULL, NULL, NULL, 1, p_owner,
                reserved, p_output_tokens, created_at);
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
    EXCEPTION WHEN unique_violation OR SQLSTATE 'RFUSE' THEN
        -- All of the above is undone. What is known by its key is not refused.
        SELECT m.id, m.content_hash, m.state, m.role INTO stored FROM messages m
        WHERE m.user_id = p_user AND m.conversation_id = p_conversation AND m.client_message_id = p_client_message_id;
        IF FOUND THEN
            -- Of an erased message nothing is left to compare with, and a resend must not bring it back. The key of a
            -- regenerated reply is no message's.
            outcome := CASE
                WHEN stored.role = 'user' AND (stored.state = 'erased' OR stored.content_hash = p_content_hash)
                THEN 'duplicate' ELSE 'reused' END;
            message_id := stored.id;
        ELSIF outcome = 'accepted' THEN
            RAISE;
        END IF;
    END;
END
$function$;
