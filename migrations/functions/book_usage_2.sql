-- Books what one attempt at a reply, or one piece of background work, has used; once. Whether it was not booked before.
--
-- Of p_usage, `prompt_tokens`, `cached_tokens`, `completion_tokens`, `embedding_tokens` and `estimated` are read; what
-- is missing is 0, or false. The row of the hour is locked until the end of the transaction, so this comes last in it.
--
-- An attempt that used nothing is added up under no model: whoever names models that do not exist makes no rows. Users
-- name models as they like, and some endpoints answer to every name: what comes after the first 32 of an hour is added
-- up under no model, too, so that the rows of an hour are bounded, but for some that are booked at the same instant.
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
    this_hour timestamptz := date_trunc('hour', now(), 'UTC');
    estimated bigint;
    named text;
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
    estimated := CASE WHEN is_estimate THEN prompt + completion + embedding ELSE 0 END;
    named := CASE WHEN p_kind = 'turn' AND prompt + completion = 0 THEN '' ELSE coalesce(p_model, '') END;
    UPDATE usage_hours h SET
        turns = h.turns + p_turns,
        prompt_tokens = h.prompt_tokens + prompt,
        cached_tokens = h.cached_tokens + cached,
        completion_tokens = h.completion_tokens + completion,
        embedding_tokens = h.embedding_tokens + embedding,
        estimated_tokens = h.estimated_tokens + estimated
    WHERE h.user_id = p_user AND h.hour = this_hour AND h.kind = p_kind AND h.model = named;
    IF FOUND THEN
        RETURN true;
    END IF;
    IF 32 <= (
        SELECT count(*) FROM usage_hours h
        WHERE h.user_id = p_user AND h.hour = this_hour AND h.kind = p_kind AND h.model <> '')
    THEN
        named := '';
    END IF;
    INSERT INTO usage_hours AS h (user_id, hour, kind, model, turns, prompt_tokens, cached_tokens, completion_tokens,
                                  embedding_tokens, estimated_tokens)
    VALUES (p_user, this_hour, p_kind, named, p_turns, prompt, cached, completion, embedding, estimated)
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
