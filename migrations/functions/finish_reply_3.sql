-- Stores a finished reply with its context report, its usage and its background work, in one statement and one round
-- trip.
--
-- The write is fenced: it happens only while the reply is pending and of the given attempt, so that at most one attempt
-- ever commits. `finished` is false where it did not happen, and nothing is booked. Where p_usage is null, the attempt
-- ends what a dead process left behind and has used nothing itself: the reply then bears what was booked for the
-- last attempt before that used anything, if one did, and `usage` returns it.
--
-- p_context_tokens is what the prompt and the reply came to, for the next reservation.
--
-- The report loses the passages of messages that were erased or deleted since it was made, and of the user's own
-- documents that were deleted. Whoever erases holds the user's advisory lock alone, so that no report is written while
-- others are being searched for these passages.
CREATE FUNCTION finish_reply(
    p_user uuid, p_conversation uuid, p_reply uuid, p_attempt integer, p_state text, p_parts jsonb, p_tokens integer,
    p_model text, p_finish_reason text, p_error_reason text, p_usage jsonb, p_delta_ends integer[], p_report jsonb,
    p_context_tokens integer, p_embedding_tokens integer,
    OUT finished boolean, OUT revision_before bigint, OUT finished_at timestamptz, OUT usage jsonb
)
LANGUAGE plpgsql
AS $function$
#variable_conflict use_variable
DECLARE
    reply_sequence bigint;
    reserved integer;
    used jsonb := p_usage || jsonb_build_object('embedding_tokens', p_embedding_tokens);
    borne jsonb := p_usage;
    report jsonb := p_report;
    quoted uuid[];
    places uuid[];
    cited jsonb[];
    gone uuid[] := '{}';
BEGIN
    PERFORM set_config('chatrpc.user_id', p_user::text, true);
    finished := false;
    SELECT array_agg((item->>'message_id')::uuid) FILTER (WHERE item ? 'text' AND item->>'message_id' IS NOT NULL),
           array_agg(DISTINCT (item->>'conversation_id')::uuid) FILTER (WHERE item->>'conversation_id' IS NOT NULL),
           array_agg(item->'citation') FILTER (WHERE jsonb_typeof(item->'citation') = 'object')
    INTO quoted, places, cited
    FROM jsonb_array_elements((p_report->'hits') || (p_report->'dropped')) AS item;
    IF quoted IS NOT NULL OR cited IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock_shared(hashtextextended(p_user::text, 0));
    END IF;
    -- Looking for the messages takes ten times as long as finding that none can be gone.
    IF cardinality(places) > (
        SELECT count(*) FROM conversations c WHERE c.user_id = p_user AND c.id = ANY (places) AND c.erasures = 0)
    THEN
        gone := ARRAY(
            SELECT source FROM unnest(quoted) AS source
            WHERE NOT EXISTS (
                SELECT FROM messages m WHERE m.user_id = p_user AND m.id = source AND m.state <> 'erased'));
    END IF;
    IF cited IS NOT NULL THEN
        gone := gone || ARRAY(
            SELECT (citation->>'document_id')::uuid FROM unnest(cited) AS citation
            -- A shared document is not seen here, and not the user's to erase.
            WHERE NOT coalesce((citation->>'shared')::boolean, false) AND NOT EXISTS (
                SELECT FROM documents d
                WHERE d.user_id = p_user AND d.id = (citation->>'document_id')::uuid));
    END IF;
    IF cardinality(gone) > 0 THEN
        report := without_passages(p_report, gone);
    END IF;

    -- The lock order is that of append_message: the conversation first.
    SELECT c.revision INTO revision_before FROM conversations c
    WHERE c.user_id = p_user AND c.id = p_conversation
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    IF p_usage IS NULL THEN
        SELECT jsonb_build_object('prompt_tokens', e.prompt_tokens, 'cached_tokens', e.cached_tokens,
                                  'completion_tokens', e.completion_tokens, 'estimated', e.estimated) INTO borne
        FROM usage_entries e
        WHERE e.user_id = p_user AND e.id = p_reply AND e.attempt < p_attempt
          -- One that was taken over before it asked the model has no part in the text.
          AND e.prompt_tokens + e.completion_tokens > 0
        ORDER BY e.attempt DESC LIMIT 1;
    END IF;
    finished_at := now();
    UPDATE messages m SET
        state = p_state, parts = p_parts, tokens = p_tokens, model = p_model, finish_reason = p_finish_reason,
        error_reason = p_error_reason,
        usage = coalesce(borne, reservation(0, 0) || '{"estimated": false}'),
        delta_ends = p_delta_ends, finished_at = finish_reply.finished_at, owner = NULL
    WHERE m.user_id = p_user AND m.id = p_reply AND m.state = 'pending' AND m.attempt = p_attempt
    RETURNING m.sequence, m.usage, coalesce(m.reserved_prompt_tokens + m.reserved_completion_tokens, 0)
    INTO reply_sequence, usage, reserved;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    finished := true;

    UPDATE conversations c SET
        revision = revision_before + 1, pending_replies = c.pending_replies - 1, updated_at = finish_reply.finished_at,
        context_tokens = coalesce(p_context_tokens, c.context_tokens)
    WHERE c.user_id = p_user AND c.id = p_conversation;
    IF report IS NOT NULL THEN
        INSERT INTO context_reports (user_id, conversation_id, reply_id, report)
        VALUES (p_user, p_conversation, p_reply, report);
    END IF;
    -- Messages behind an unfinished reply are embedded without it; a reply that comes late goes back to its place.
    INSERT INTO memory_tasks AS t (user_id, conversation_id, due_at)
    VALUES (p_user, p_conversation, finish_reply.finished_at)
    ON CONFLICT (user_id, conversation_id) DO UPDATE SET
        due_at = finish_reply.finished_at,
        embedded_sequence = least(t.embedded_sequence, reply_sequence - 1),
        finished_after = least(t.finished_after, reply_sequence - 1);
    PERFORM book_usage(p_user, p_reply, p_attempt, 'turn', p_conversation, p_model, used, reserved, 1);
END
$function$;
