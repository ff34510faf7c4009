-- Takes over pending replies of any users whose process holds no lease any more, for a process that holds one. The
-- attempt before is over with it: whatever it still writes names a lower number. The text stays, so that a reply can be
-- ended with it. What the attempt used died with its process: its reservation is booked.
--
-- The lease is looked up by a scalar subquery, and by no join: where another process has taken the row over a moment
-- ago, PostgreSQL looks again whether the row fits, and a join would still go by the owner before.
--
-- It runs as the schema's owner, since the server's role sees one user at a time. Where nothing is abandoned, it reads
-- the index of pending replies, which has an entry for each turn that runs, and nothing else.
CREATE FUNCTION claim_abandoned_replies(p_owner uuid, p_limit integer)
RETURNS TABLE (user_id uuid, reply_id uuid, attempt integer)
LANGUAGE plpgsql
SECURITY DEFINER
SET enable_seqscan = off
AS $function$
#variable_conflict use_column
DECLARE
    taken record;
BEGIN
    FOR taken IN
        WITH taken AS (
            UPDATE messages m SET attempt = m.attempt + 1, owner = p_owner
            FROM (
                SELECT p.user_id, p.conversation_id, p.branch, p.depth FROM messages p
                WHERE p.state = 'pending'
                  AND coalesce((SELECT s.lease_until FROM server_processes s WHERE s.id = p.owner), '-infinity') <= now()
                  AND EXISTS (SELECT FROM server_processes s WHERE s.id = p_owner AND s.lease_until > now())
                ORDER BY p.user_id, p.conversation_id, p.branch, p.depth
                LIMIT p_limit
                FOR NO KEY UPDATE OF p SKIP LOCKED
            ) abandoned
            WHERE m.user_id = abandoned.user_id AND m.conversation_id = abandoned.conversation_id
              AND m.branch = abandoned.branch AND m.depth = abandoned.depth
            RETURNING m.user_id, m.conversation_id, m.id, m.attempt, m.reserved_prompt_tokens,
                      m.reserved_completion_tokens
        )
        -- Always in the same order, since two processes that book for the same users would wait for each other.
        SELECT * FROM taken ORDER BY user_id
    LOOP
        PERFORM book_usage(
            taken.user_id, taken.id, taken.attempt - 1, 'turn', taken.conversation_id, NULL,
            reservation(taken.reserved_prompt_tokens, taken.reserved_completion_tokens),
            coalesce(taken.reserved_prompt_tokens + taken.reserved_completion_tokens, 0), 0);
        user_id := taken.user_id;
        reply_id := taken.id;
        attempt := taken.attempt;
        RETURN NEXT;
    END LOOP;
END
$function$;
