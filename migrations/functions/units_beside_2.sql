-- The units that stand up to two places before or after some, and these, each of a container, a branch and a depth.
--
-- Only embeddings_place_idx finds them in a step each; by the primary key every seed would take a pass over all passages
-- of its owner. The planner, which knows how many passages a user has on average, must never think that as cheap. So the
-- owner is named once, since of two conditions it would expect the product of their shares (which of the owners it is,
-- conversation_id says), and a column that the primary key does not include, and that is never negative, rules out an
-- index-only scan of it. Each seed is looked up by itself (`OFFSET 0`): while there are few passages, or were when a
-- connection planned this, the planner would rather read them all and join, and keep that plan when they are many.
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
        CROSS JOIN LATERAL (
            SELECT e.message_id FROM embeddings e
            WHERE e.user_id = ANY (ARRAY[p_user, p_shared]) AND e.conversation_id = s.container
              AND e.branch = s.branch AND e.depth >= s.first AND e.depth <= s.last AND e.span_start >= 0
            OFFSET 0
        ) n
    );
END
$function$;
