-- Whether a search may find a passage. A message of the searched conversation must lie on a path (`p_ends` as in
-- hot_path), through `p_through`; one of another conversation must be active, and `p_elsewhere`. A chunk must be of one
-- of the collections; null stands for all, documents without a collection included.
--
-- One expression without subqueries, so that it becomes a part of the query that calls it.
CREATE FUNCTION in_scope(
    e embeddings, p_user uuid, p_conversation uuid, p_through integer, p_ends integer[], p_elsewhere boolean,
    p_collections uuid[]
)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT CASE
        WHEN e.source <> 0 THEN p_collections IS NULL OR e.collection_id = ANY (p_collections)
        WHEN e.user_id <> p_user THEN false
        WHEN e.conversation_id = p_conversation THEN e.depth <= p_through AND e.depth <= p_ends[e.branch + 1]
        ELSE p_elsewhere AND e.active
    END
$function$;
