-- As the function hot_path, in one row: the path's messages after the summary as parallel arrays, oldest first. So a
-- search can stand beside it in the same statement, and a client reads a row instead of dozens. `revision` is null where
-- there is no such conversation, `summary_version` where no summary serves.
CREATE FUNCTION hot_path_row(
    p_user uuid, p_conversation uuid, p_branches integer[], p_ends integer[], p_last_anchor integer,
    OUT revision bigint, OUT settings jsonb, OUT erasures integer, OUT rebuilding boolean,
    OUT summary_version bigint, OUT summary_text text, OUT facts jsonb, OUT summary_model text, OUT summary_tokens integer,
    OUT summary_created_at timestamptz, OUT anchor_id uuid, OUT anchor_branch integer, OUT anchor_depth integer,
    OUT message_ids uuid[], OUT sequences bigint[], OUT message_branches integer[], OUT depths integer[],
    OUT roles text[], OUT states text[], OUT parts jsonb, OUT tokens integer[], OUT said_at timestamptz[]
)
LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
BEGIN
    PERFORM set_config('chatrpc.user_id', p_user::text, true);

    SELECT c.revision, c.settings, c.erasures INTO revision, settings, erasures
    FROM conversations c WHERE c.user_id = p_user AND c.id = p_conversation;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    SELECT s.version, s.text, s.facts, s.model, s.tokens, s.created_at, s.anchor_id, s.anchor_branch, s.anchor_depth
    INTO summary_version, summary_text, facts, summary_model, summary_tokens, summary_created_at,
         anchor_id, anchor_branch, anchor_depth
    FROM summaries s
    WHERE s.user_id = p_user AND s.conversation_id = p_conversation AND s.erased_at IS NULL
      AND s.anchor_depth <= p_last_anchor AND s.anchor_depth <= p_ends[s.anchor_branch + 1]
    ORDER BY s.anchor_depth DESC, s.version DESC
    LIMIT 1;
    anchor_depth := coalesce(anchor_depth, 0);
    rebuilding := false;
    IF erasures > 0 THEN
        rebuilding := EXISTS (
            SELECT 1 FROM summaries s
            WHERE s.user_id = p_user AND s.conversation_id = p_conversation AND s.erased_at IS NOT NULL
              AND s.anchor_depth > hot_path_row.anchor_depth
              AND s.anchor_depth <= p_last_anchor AND s.anchor_depth <= p_ends[s.anchor_branch + 1]
        );
    END IF;

    SELECT array_agg(m.id), array_agg(m.sequence), array_agg(m.branch), array_agg(m.depth),
           array_agg(m.role), array_agg(m.state), jsonb_agg(m.parts), array_agg(m.tokens), array_agg(m.created_at)
    INTO message_ids, sequences, message_branches, depths, roles, states, parts, tokens, said_at
    FROM (
        SELECT m.id, m.sequence, m.branch, m.depth, m.role, m.state, m.parts, m.tokens, m.created_at
        FROM messages m
        WHERE m.user_id = p_user AND m.conversation_id = p_conversation
          AND m.branch = ANY (p_branches) AND m.depth > hot_path_row.anchor_depth AND m.depth <= p_ends[m.branch + 1]
        ORDER BY m.depth
    ) m;
END
$function$;
