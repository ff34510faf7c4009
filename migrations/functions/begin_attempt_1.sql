-- Begins a new attempt at a pending reply whose process is gone, or is p_owner itself, and books the attempt before.
-- Null where the reply is finished, or a living process is at work on it. The text stays, so that the reply can be
-- ended with it.
--
-- What the attempt of a dead process used is not known: its reservation is booked. What its own used, p_owner tells by
-- p_usage, with the model's name; null where that one never asked the model.
CREATE FUNCTION begin_attempt(p_user uuid, p_reply uuid, p_owner uuid, p_usage jsonb, OUT attempt integer)
LANGUAGE plpgsql
AS $function$
#variable_conflict use_variable
DECLARE
    before record;
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
    PERFORM book_usage(
        p_user, p_reply, before.attempt, 'turn', before.conversation_id,
        CASE WHEN before.owner = p_owner THEN p_usage->>'model' END,
        CASE WHEN before.owner = p_owner THEN p_usage
             ELSE reservation(before.reserved_prompt_tokens, before.reserved_completion_tokens) END,
        coalesce(before.reserved_prompt_tokens + before.reserved_completion_tokens, 0), 0);
END
$function$;
