-- Which of the conversations that a process watches, of any users, are not at the revision that was told; null for those
-- that are gone. It runs as the schema's owner, since the server's role sees one user at a time, and a statement for each
-- user would cost a round trip for each.
CREATE FUNCTION changed_conversations(p_users uuid[], p_conversations uuid[], p_revisions bigint[])
RETURNS TABLE (place integer, revision bigint)
LANGUAGE sql STABLE
SECURITY DEFINER
SET enable_seqscan = off
AS $function$
    SELECT w.place::integer, c.revision
    FROM unnest(p_users, p_conversations, p_revisions) WITH ORDINALITY AS w (user_id, conversation_id, revision, place)
    LEFT JOIN conversations c ON c.user_id = w.user_id AND c.id = w.conversation_id
    WHERE c.revision IS DISTINCT FROM w.revision
$function$;
