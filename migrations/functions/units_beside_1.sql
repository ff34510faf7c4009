-- The units that stand up to two places before or after some, and these, each of a container, a branch and a depth.
--
-- Only embeddings_place_idx finds them in a step each; by the primary key every seed would take a pass over all passages
-- of its owner. The planner, which knows how many passages a user has on average, must never think that as cheap. So the
-- owner is named once, since of two conditions it would expect the product of their shares (which of the owners it is,
-- conversation_id says), and a column that the primary key does not include, and that is never negative, rules out an
-- index-only scan of it.
--
-- Arithmetic is no part of the condition, since row-level security keeps it out of an index's conditions.
CREATE FUNCTION units_beside(
    p_user uuid, p_shared uuid, p_containers uuid[], p_branches integer[], p_depths integer[]
)
RETURNS uuid[]
LANGUAGE plpgsql
AS $function$
BEGIN
    RETURN ARRAY(
        SELECT n.message_id
        FROM (
            SELECT s.container, s.branch, s.depth - 2 AS first, s.depth + 2 AS last
            FROM unnest(p_containers, p_branches, p_depths) AS s (container, branch, depth)
            OFFSET 0
        ) s
        JOIN embeddings n ON n.user_id = ANY (ARRAY[p_user, p_shared]) AND n.conversation_id = s.container
         AND n.branch = s.branch AND n.depth >= s.first AND n.depth <= s.last AND n.span_start >= 0
    );
END
$function$;
