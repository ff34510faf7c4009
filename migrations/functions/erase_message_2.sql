-- Erases the text of a message, and of its replies where `p_include_reply`, with all that was derived from them, and counts
-- what it removed. `conversation` is null where there is no such message.
--
-- What is under way cannot bring the text back: a reply that is being written is fenced off by its state; vectors are
-- added under a lock on the conversation and only for messages that are not erased; folds are fenced off by
-- invalidate_summaries; and a reply is finished under a lock that is held alone here.
CREATE FUNCTION erase_message(
    p_user uuid, p_message uuid, p_include_reply boolean,
    OUT conversation uuid, OUT erased_messages bigint, OUT erased_vectors bigint,
    OUT erased_passages bigint, OUT erased_reports bigint, OUT erased_summaries bigint, OUT erased_title boolean
)
LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
DECLARE
    target record;
    title_before text;
    replies uuid[];
    targets uuid[];
    stopped integer := 0;
    first_stopped bigint;
BEGIN
    PERFORM set_config('chatrpc.user_id', p_user::text, true);
    -- As in finish_reply and in the deletion of a conversation: this lock before that on a conversation.
    PERFORM pg_advisory_xact_lock(hashtextextended(p_user::text, 0));

    SELECT m.conversation_id, m.branch, m.depth, m.role INTO target FROM messages m
    WHERE m.user_id = p_user AND m.id = p_message;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT c.id, c.title INTO conversation, title_before FROM conversations c
    WHERE c.user_id = p_user AND c.id = target.conversation_id
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    -- The replies to a message stand right behind it: on its branch, and at the beginning of those that begin there. So
    -- does a message of the user's that was sent behind one without a reply, as a fork may end with.
    replies := CASE WHEN target.role = 'assistant' THEN ARRAY[p_message] ELSE ARRAY(
        SELECT m.id FROM (
            SELECT target.branch AS branch
            UNION ALL
            SELECT b.branch FROM branches b WHERE b.user_id = p_user AND b.conversation_id = conversation) place
        JOIN messages m ON m.user_id = p_user AND m.conversation_id = conversation
                       AND m.branch = place.branch AND m.depth = target.depth + 1
        WHERE m.parent_id = p_message AND m.role = 'assistant') END;
    targets := ARRAY(
        SELECT m.id FROM messages m
        WHERE m.user_id = p_user AND m.state <> 'erased'
          AND (m.id = p_message OR (p_include_reply AND m.id = ANY (replies))));
    erased_messages := cardinality(targets);
    erased_title := title_before <> '' AND EXISTS (
        SELECT 1 FROM messages m
        WHERE m.user_id = p_user AND m.id = ANY (targets)
          AND starts_with(
              btrim((SELECT string_agg(part->>'text', '') FROM jsonb_array_elements(m.parts) AS part)),
              btrim(title_before)));

    SELECT coalesce(sum(invalidate_summaries(p_user, conversation, each)), 0) INTO erased_summaries
    FROM unnest(targets) AS each;
    IF erased_messages > 0 THEN
        -- They are stopped with the text that they have. Their attempt is over: whoever reads it may have seen more.
        WITH ended AS (
            UPDATE messages m SET
                state = 'cancelled', finish_reason = 'cancelled', attempt = m.attempt + 1, owner = NULL,
                finished_at = now(),
                -- No token is shorter than a byte.
                tokens = (SELECT coalesce(sum(octet_length(part::text)), 0) FROM jsonb_array_elements(m.parts) AS part),
                usage = '{"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0, "estimated": true}'
            WHERE m.user_id = p_user AND m.id = ANY (replies) AND m.state = 'pending'
            RETURNING m.sequence)
        SELECT count(*), min(ended.sequence) INTO stopped, first_stopped FROM ended;
        UPDATE memory_tasks t SET
            embedded_sequence = least(t.embedded_sequence, first_stopped - 1),
            finished_after = least(t.finished_after, first_stopped - 1)
        WHERE t.user_id = p_user AND t.conversation_id = conversation AND stopped > 0;
    END IF;
    UPDATE messages m SET
        state = 'erased', parts = '[]', tokens = 0, content_hash = NULL, turn_settings = NULL, delta_ends = NULL
    WHERE m.user_id = p_user AND m.id = ANY (targets);
    UPDATE conversations c SET
        revision = c.revision + 1,
        pending_replies = c.pending_replies - stopped,
        title = CASE WHEN erased_title THEN '' ELSE c.title END,
        -- It was made of the title.
        request_hash = CASE WHEN erased_title THEN NULL ELSE c.request_hash END,
        updated_at = now()
    WHERE c.user_id = p_user AND c.id = conversation AND erased_messages > 0;

    DELETE FROM embeddings e WHERE e.user_id = p_user AND e.message_id = ANY (targets);
    GET DIAGNOSTICS erased_vectors = ROW_COUNT;
    DELETE FROM context_reports r
    WHERE r.user_id = p_user AND r.conversation_id = conversation AND r.reply_id = ANY (targets);
    GET DIAGNOSTICS erased_reports = ROW_COUNT;
    WITH changed AS (
        UPDATE context_reports r SET report = without_passages(r.report, targets)
        WHERE r.user_id = p_user AND EXISTS (
            SELECT 1 FROM jsonb_array_elements(r.report->'hits') AS hit
            WHERE (hit->>'message_id')::uuid = ANY (targets))
        RETURNING r.report
    )
    SELECT count(*) INTO erased_passages FROM changed, jsonb_array_elements(changed.report->'hits') AS hit
    WHERE (hit->>'message_id')::uuid = ANY (targets);
END
$function$;
