-- The function of the release before, in its place, for servers of that release: it reserves nothing and knows no
-- quota. An open connection of theirs has its call prepared, and would fail from the moment at which a column is added
-- to the result.
CREATE OR REPLACE FUNCTION append_message(
    p_user uuid, p_conversation uuid, p_message uuid, p_reply uuid, p_client_message_id text, p_content_hash bytea,
    p_parent uuid, p_parts jsonb, p_tokens integer, p_actor text, p_turn_settings jsonb, p_owner uuid,
    p_reject_busy boolean, p_max_queue integer, p_max_pending integer,
    OUT outcome text, OUT message_id uuid, OUT parent_id uuid, OUT sequence bigint, OUT branch integer,
    OUT depth integer, OUT lineage integer[], OUT revision_before bigint, OUT settings jsonb, OUT created_at timestamptz,
    OUT parent_state text, OUT memory text, OUT pending_before integer
)
LANGUAGE sql
AS $function$
    SELECT a.outcome, a.message_id, a.parent_id, a.sequence, a.branch, a.depth, a.lineage, a.revision_before,
           a.settings, a.created_at, a.parent_state, a.memory, a.pending_before
    FROM append_message(p_user, p_conversation, p_message, p_reply, p_client_message_id, p_content_hash, p_parent,
                        p_parts, p_tokens, p_actor, p_turn_settings, p_owner, p_reject_busy, p_max_queue,
                        p_max_pending, 0, 0, 0, NULL, NULL, NULL) a
$function$;
