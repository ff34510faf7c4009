-- What stands against a further turn of a user who has a quota, or null where nothing does.
--
-- What was booked since the window began, what unfinished replies have reserved, and p_needed must not exceed
-- p_max_tokens; and turns likewise. Null limits do not count. Windows are those of the calendar (`hour`, `day`,
-- `month`), in UTC. Tokens of embeddings do not count.
--
-- To be called in the transaction that stores the reservation: until its end, no other of the user's is decided. The
-- lock is taken after the conversation's, and nothing is waited for behind it.
CREATE FUNCTION over_quota(p_user uuid, p_needed bigint, p_window text, p_max_tokens bigint, p_max_turns bigint)
RETURNS jsonb
LANGUAGE plpgsql
AS $function$
DECLARE
    instant timestamptz;
    starts timestamptz;
    sums record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(p_user::text, 1));
    -- The transaction may have begun in the window before.
    instant := clock_timestamp();
    starts := date_trunc(p_window, instant, 'UTC');
    -- In one statement, so that a turn that ends meanwhile is seen either as reserved or as booked.
    SELECT * INTO sums FROM
        (SELECT coalesce(sum(h.prompt_tokens + h.completion_tokens), 0)::bigint AS tokens,
                coalesce(sum(h.turns) FILTER (WHERE h.kind = 'turn'), 0)::bigint AS turns
         FROM usage_hours h
         WHERE h.user_id = p_user AND h.hour >= starts) used,
        (SELECT coalesce(sum(m.reserved_prompt_tokens::bigint + m.reserved_completion_tokens), 0)::bigint AS reserved,
                count(*) AS running
         FROM messages m WHERE m.user_id = p_user AND m.state = 'pending') unfinished;
    IF NOT (coalesce(sums.tokens + sums.reserved + p_needed > p_max_tokens, false)
            OR coalesce(sums.turns + sums.running >= p_max_turns, false))
    THEN
        RETURN NULL;
    END IF;
    RETURN jsonb_build_object(
        'tokens', sums.tokens, 'reserved_tokens', sums.reserved, 'needed_tokens', p_needed,
        'turns', sums.turns, 'running_turns', sums.running,
        'retry_after', CASE
            -- Replies that end may free enough of what they reserved; what is used is free when the window ends.
            WHEN coalesce(sums.tokens + p_needed <= p_max_tokens, true)
                 AND coalesce(sums.turns + sums.running < p_max_turns, true)
            THEN 1.0
            ELSE extract(epoch FROM
                (starts AT TIME ZONE 'UTC' + ('1 ' || p_window)::interval) AT TIME ZONE 'UTC' - instant)
        END);
END
$function$;
