-- Books the unfinished replies that the caller's transaction is about to stop by erasing p_message, which is the message
-- of one or one itself, or by deleting p_conversation, where p_message is null. To be called before it does so.
--
-- Each ends with an attempt more that has used nothing, and is counted as a turn with it. What the attempt before has
-- used, its process books if it lives; of a dead one's, the reservation is booked here, since nobody will take it over.
--
-- The locks are those of the erasure and in its order. The replies are locked before anything is booked: whoever takes
-- them over does so in the same order.
CREATE FUNCTION book_stopped(p_user uuid, p_conversation uuid, p_message uuid) RETURNS void
LANGUAGE plpgsql
AS $function$
DECLARE
    stopped record;
    replies uuid[];
BEGIN
    PERFORM set_config('chatrpc.user_id', p_user::text, true);
    PERFORM pg_advisory_xact_lock(hashtextextended(p_user::text, 0));
    PERFORM FROM conversations c
    WHERE c.user_id = p_user AND c.id = coalesce(
        p_conversation, (SELECT m.conversation_id FROM messages m WHERE m.user_id = p_user AND m.id = p_message))
    FOR NO KEY UPDATE;
    replies := ARRAY(
        SELECT m.id FROM messages m
        WHERE m.user_id = p_user AND m.state = 'pending'
          AND (p_conversation IS NULL OR m.conversation_id = p_conversation)
          AND (p_message IS NULL OR m.id = p_message OR m.parent_id = p_message)
        ORDER BY m.conversation_id, m.branch, m.depth
        FOR NO KEY UPDATE);
    FOR stopped IN
        SELECT m.id, m.conversation_id, m.attempt, m.reserved_prompt_tokens AS prompt,
               m.reserved_completion_tokens AS completion,
               coalesce((SELECT s.lease_until FROM server_processes s WHERE s.id = m.owner), '-infinity') <= now() AS dead
        FROM messages m
        WHERE m.user_id = p_user AND m.id = ANY (replies)
    LOOP
        IF stopped.dead THEN
            PERFORM book_usage(p_user, stopped.id, stopped.attempt, 'turn', stopped.conversation_id, NULL,
                               reservation(stopped.prompt, stopped.completion),
                               coalesce(stopped.prompt + stopped.completion, 0), 0);
        END IF;
        PERFORM book_usage(p_user, stopped.id, stopped.attempt + 1, 'turn', stopped.conversation_id, NULL, NULL, 0, 1);
    END LOOP;
END
$function$;
