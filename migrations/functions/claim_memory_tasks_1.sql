-- Claims due background work of any user for a while. It runs as the schema's owner, since the server's role sees one
-- user at a time. The claim is a short transaction of its own: holding a row lock over a model call would make sends
-- wait for the whole call. The migration binds it to the schema, since no search path of its caller's may count.
CREATE FUNCTION claim_memory_tasks(p_limit integer, p_lease interval)
RETURNS TABLE (user_id uuid, conversation_id uuid, embedded_sequence bigint, attempts integer, due_at timestamptz)
LANGUAGE sql
SECURITY DEFINER
AS $function$
    UPDATE memory_tasks t SET
        claimed_until = now() + p_lease, attempts = t.attempts + 1, finished_after = NULL
    FROM (
        SELECT d.user_id, d.conversation_id FROM memory_tasks d
        WHERE d.due_at <= now() AND (d.claimed_until IS NULL OR d.claimed_until < now())
        ORDER BY d.due_at
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ) claimed
    WHERE t.user_id = claimed.user_id AND t.conversation_id = claimed.conversation_id
    RETURNING t.user_id, t.conversation_id, t.embedded_sequence, t.attempts, t.due_at
$function$;
