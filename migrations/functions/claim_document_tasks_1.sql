-- Claims due work on documents of any user for a while, as claim_memory_tasks does for conversations.
CREATE FUNCTION claim_document_tasks(p_limit integer, p_lease interval)
RETURNS TABLE (user_id uuid, document_id uuid, attempts integer)
LANGUAGE sql
SECURITY DEFINER
AS $function$
    UPDATE document_tasks t SET claimed_until = now() + p_lease, attempts = t.attempts + 1
    FROM (
        SELECT d.user_id, d.document_id FROM document_tasks d
        WHERE d.due_at <= now() AND (d.claimed_until IS NULL OR d.claimed_until < now())
        ORDER BY d.due_at
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ) claimed
    WHERE t.user_id = claimed.user_id AND t.document_id = claimed.document_id
    RETURNING t.user_id, t.document_id, t.attempts
$function$;
