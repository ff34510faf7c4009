-- Whether a search may find a passage, of whose columns it is told those that decide. A message of the searched
-- conversation must lie on a path (`p_ends` as in hot_path), through `p_through`; one of another conversation must be
-- active, and `p_elsewhere`. A chunk must be of one of the collections; null stands for all, documents without a
-- collection included.
--
-- One expression without subqueries, so that it becomes a part of the query that calls it.
CREATE FUNCTION in_scope(
    p_owner uuid, p_source smallint, p_collection uuid, p_container uuid, p_branch integer, p_depth integer,
    p_active boolean, p_user uuid, p_conversation uuid, p_through integer, p_ends integer[], p_elsewhere boolean,
    p_collections uuid[]
)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT CASE
        WHEN p_source <> 0 THEN p_collections IS NULL OR p_collection = ANY (p_collections)
        WHEN p_owner <> p_user THEN false
        WHEN p_container = p_conversation THEN p_depth <= p_through AND p_depth <= p_ends[p_branch + 1]
        ELSE p_elsewhere AND p_active
    END
$function$;
