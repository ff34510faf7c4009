-- The function of the release before, in its place: see append_message_before. What a reply used is booked all the
-- same.
CREATE OR REPLACE FUNCTION finish_reply(
    p_user uuid, p_conversation uuid, p_reply uuid, p_attempt integer, p_state text, p_parts jsonb, p_tokens integer,
    p_model text, p_finish_reason text, p_error_reason text, p_usage jsonb, p_delta_ends integer[], p_report jsonb,
    OUT finished boolean, OUT revision_before bigint, OUT finished_at timestamptz
)
LANGUAGE sql
AS $function$
    SELECT f.finished, f.revision_before, f.finished_at
    FROM finish_reply(p_user, p_conversation, p_reply, p_attempt, p_state, p_parts, p_tokens, p_model, p_finish_reason,
                      p_error_reason, p_usage, p_delta_ends, p_report, NULL, 0) f
$function$;
