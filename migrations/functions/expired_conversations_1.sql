-- Temporary conversations of any user that have not changed for a while, the oldest first. It runs as the schema's
-- owner, since the server's role sees one user at a time; who deletes one looks again under its lock.
CREATE FUNCTION expired_conversations(p_age interval, p_limit integer)
RETURNS TABLE (user_id uuid, conversation_id uuid)
LANGUAGE sql
STABLE
SECURITY DEFINER
AS $function$
    SELECT c.user_id, c.id FROM conversations c
    WHERE c.memory = 'temporary' AND c.created_at < now() - p_age AND c.updated_at < now() - p_age
    ORDER BY c.created_at
    LIMIT p_limit
$function$;
