-- The passages nearest to a query, best first, by an exact scan of one user's vectors.
--
-- Of the given conversation only messages of a path (`p_ends` as in hot_path) are searched: through `p_through`, or,
-- where that is null, through the summary that hot_path would find. Of the user's other conversations, if
-- `p_everywhere`, the active paths.
CREATE FUNCTION search_passages(
    p_user uuid, p_conversation uuid, p_ends integer[], p_last_anchor integer, p_through integer,
    p_vector halfvec, p_space smallint, p_limit integer, p_everywhere boolean,
    OUT message_id uuid, OUT conversation_id uuid, OUT span_start integer, OUT span_end integer,
    OUT cosine double precision, OUT role text, OUT parts jsonb, OUT created_at timestamptz
)
RETURNS SETOF record
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $function$
#variable_conflict use_column
DECLARE
    through integer := p_through;
BEGIN
    PERFORM set_config('chatrpc.user_id', p_user::text, true);

    IF through IS NULL THEN
        SELECT s.anchor_depth INTO through FROM summaries s
        WHERE s.user_id = p_user AND s.conversation_id = p_conversation
          AND s.anchor_depth <= p_last_anchor AND s.anchor_depth <= p_ends[s.anchor_branch + 1]
        ORDER BY s.anchor_depth DESC, s.version DESC
        LIMIT 1;
        through := coalesce(through, 0);
    END IF;

    RETURN QUERY
    SELECT e.message_id, e.conversation_id, e.span_start, e.span_end, 1 - e.distance, m.role, m.parts, m.created_at
    FROM (
        SELECT e.message_id, e.conversation_id, e.span_start, e.span_end, e.embedding <=> p_vector AS distance
        FROM embeddings e
        WHERE e.user_id = p_user AND e.space_id = p_space
          AND CASE WHEN e.conversation_id = p_conversation
                   THEN e.depth <= through AND e.depth <= p_ends[e.branch + 1]
                   ELSE p_everywhere AND e.active END
        ORDER BY distance
        LIMIT p_limit
    ) e
    JOIN messages m ON m.user_id = p_user AND m.id = e.message_id
    ORDER BY e.distance, m.created_at DESC;
END
$function$;
