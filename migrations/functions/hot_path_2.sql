-- What a context is built from, retrieval apart: the conversation, the summary that covers most of a path, and the
-- path's messages after it. The first row is the conversation and its summary, each further row one message, oldest
-- first; no row at all where there is no such conversation.
--
-- A function, because its plans are kept: planning these statements anew takes several times as long as running them.
-- A path is given as `p_ends`: at each branch number + 1 the last depth of the path on that branch, 0 where the path
-- does not touch it. `rebuilding` says that a version which covered more of this path was erased.
CREATE FUNCTION hot_path(
    p_user uuid, p_conversation uuid, p_branches integer[], p_ends integer[], p_last_anchor integer,
    OUT revision bigint, OUT settings jsonb, OUT erasures integer, OUT rebuilding boolean,
    OUT summary_version bigint, OUT summary_text text, OUT facts jsonb, OUT summary_model text,
    OUT created_at timestamptz,
    OUT id uuid, OUT sequence bigint, OUT branch integer, OUT depth integer, OUT role text, OUT state text,
    OUT parts jsonb, OUT tokens integer
)
RETURNS SETOF record
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $function$
#variable_conflict use_column
DECLARE
    anchor integer;
BEGIN
    PERFORM set_config('chatrpc.user_id', p_user::text, true);

    SELECT c.revision, c.settings, c.erasures INTO hot_path.revision, hot_path.settings, hot_path.erasures
    FROM conversations c WHERE c.user_id = p_user AND c.id = p_conversation;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    SELECT s.version, s.text, s.facts, s.model, s.created_at, s.anchor_id, s.anchor_branch, s.anchor_depth, s.tokens
    INTO hot_path.summary_version, hot_path.summary_text, hot_path.facts, hot_path.summary_model,
         hot_path.created_at, hot_path.id, hot_path.branch, hot_path.depth, hot_path.tokens
    FROM summaries s
    WHERE s.user_id = p_user AND s.conversation_id = p_conversation AND s.erased_at IS NULL
      AND s.anchor_depth <= p_last_anchor AND s.anchor_depth <= p_ends[s.anchor_branch + 1]
    ORDER BY s.anchor_depth DESC, s.version DESC
    LIMIT 1;
    anchor := coalesce(hot_path.depth, 0);
    hot_path.rebuilding := hot_path.erasures > 0 AND EXISTS (
        SELECT 1 FROM summaries s
        WHERE s.user_id = p_user AND s.conversation_id = p_conversation AND s.erased_at IS NOT NULL
          AND s.anchor_depth > anchor
          AND s.anchor_depth <= p_last_anchor AND s.anchor_depth <= p_ends[s.anchor_branch + 1]
    );
    RETURN NEXT;

    RETURN QUERY
    SELECT NULL::bigint, NULL::jsonb, NULL::integer, NULL::boolean, NULL::bigint, NULL::text, NULL::jsonb, NULL::text,
           m.created_at, m.id, m.sequence, m.branch, m.depth, m.role, m.state, m.parts, m.tokens
    FROM messages m
    WHERE m.user_id = p_user AND m.conversation_id = p_conversation
      AND m.branch = ANY (p_branches) AND m.depth > anchor AND m.depth <= p_ends[m.branch + 1]
    ORDER BY m.depth;
END
$function$;
