-- Books what one attempt at a reply, or one piece of background work, has used; once. Whether it was not booked before.
--
-- Of p_usage, `prompt_tokens`, `cached_tokens`, `completion_tokens`, `embedding_tokens` and `estimated` are read; what
-- is missing is 0, or false. The row of the hour is locked until the end of the transaction, so this comes last in it.
-- An attempt that used nothing is added up under no model: whoever names models that do not exist makes no rows.
CREATE FUNCTION book_usage(
    p_user uuid, p_id uuid, p_attempt integer, p_kind text, p_conversation uuid, p_model text, p_usage jsonb,
    p_reserved integer, p_turns integer
)
RETURNS boolean
LANGUAGE plpgsql
AS $function$
DECLARE
    prompt bigint := coalesce((p_usage->>'prompt_tokens')::bigint, 0);
    cached bigint := coalesce((p_usage->>'cached_tokens')::bigint, 0);
    completion bigint := coalesce((p_usage->>'completion_tokens')::bigint, 0);
    embedding bigint := coalesce((p_usage->>'embedding_tokens')::bigint, 0);
    is_estimate boolean := coalesce((p_usage->>'estimated')::boolean, false);
BEGIN
    INSERT INTO usage_entries (user_id, id, attempt, kind, conversation_id, model, prompt_tokens, cached_tokens,
                               completion_tokens, embedding_tokens, estimated, reserved_tokens, booked_at)
    VALUES (p_user, p_id, p_attempt, p_kind, p_conversation, p_model, prompt, cached, completion, embedding,
            is_estimate, p_reserved, now())
    ON CONFLICT (user_id, id, attempt) DO NOTHING;
    IF NOT FOUND THEN
        IF p_kind <> 'turn' OR p_turns = 0 THEN
            RETURN false;
        END IF;
        -- Only the end of a reply counts a turn, and it comes once, also where its tokens were told before.
        prompt := 0;
        cached := 0;
        completion := 0;
        embedding := 0;
    END IF;
    INSERT INTO usage_hours AS h (user_id, hour, kind, model, turns, prompt_tokens, cached_tokens, completion_tokens,
                                  embedding_tokens, estimated_tokens)
    VALUES (p_user, date_trunc('hour', now(), 'UTC'), p_kind,
            CASE WHEN p_kind = 'turn' AND prompt + completion = 0 THEN '' ELSE coalesce(p_model, '') END,
            p_turns, prompt, cached, completion, embedding,
            CASE WHEN is_estimate THEN prompt + completion + embedding ELSE 0 END)
    ON CONFLICT (user_id, hour, kind, model) DO UPDATE SET
        turns = h.turns + excluded.turns,
        prompt_tokens = h.prompt_tokens + excluded.prompt_tokens,
        cached_tokens = h.cached_tokens + excluded.cached_tokens,
        completion_tokens = h.completion_tokens + excluded.completion_tokens,
        embedding_tokens = h.embedding_tokens + excluded.embedding_tokens,
        estimated_tokens = h.estimated_tokens + excluded.estimated_tokens;
    RETURN true;
END
$function$;
