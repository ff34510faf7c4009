-- Begins a new attempt at a pending reply whose process is gone, or is p_owner itself, and books the attempt before.
-- Null where the reply is finished, or a living process is at work on it. The text stays, so that the reply can be
-- ended with it.
--
-- What the attempt of a dead process used is not known: its reservation is booked. What attempt p_used of the caller's
-- own used, p_usage tells, with the model's name; the caller may have got a new lease since, and with it another p_owner.
-- Another attempt under p_owner never asked a model: its beginning was committed, but the caller did not hear of it.
CREATE FUNCTION begin_attempt(
    p_user uuid, p_reply uuid, p_owner uuid, p_used integer, p_usage jsonb, OUT attempt integer
)
LANGUAGE plpgsql
AS $function$
#variable_conflict use_variable
DECLARE
    before record;
    used jsonb;
BEGIN
    PERFORM set_config('chatrpc.user_id', p_user::text, true);
    SELECT m.conversation_id, m.attempt, m.owner, m.reserved_prompt_tokens, m.reserved_completion_tokens INTO before
    FROM messages m
    WHERE m.user_id = p_user AND m.id = p_reply AND m.state = 'pending'
      AND (m.owner = p_owner OR coalesce(
          (SELECT s.lease_until FROM server_processes s WHERE s.id = m.owner), '-infinity') <= now())
    FOR NO KEY UPDATE OF m;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    attempt := before.attempt + 1;
    UPDATE messages m SET attempt = begin_attempt.attempt, owner = p_owner
    WHERE m.user_id = p_user AND m.id = p_reply;
    used := CASE
        WHEN before.attempt = p_used THEN p_usage
        WHEN before.owner IS DISTINCT FROM p_owner
        THEN reservation(before.reserved_prompt_tokens, before.reserved_completion_tokens)
    END;
    PERFORM book_usage(
        p_user, p_reply, before.attempt, 'turn', before.conversation_id, used->>'model', used,
        coalesce(before.reserved_prompt_tokens + before.reserved_completion_tokens, 0), 0);
END
$function$;
