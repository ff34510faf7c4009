-- Stores the text so far of running replies of any users, in one statement for a whole process. It returns those whose
-- attempt is not the current one any more, or that are gone.
--
-- It runs as the schema's owner, since the server's role sees one user at a time; each row names its user.
CREATE FUNCTION checkpoint_replies(
    p_users uuid[], p_replies uuid[], p_attempts integer[], p_parts text[], p_delta_ends text[]
)
RETURNS SETOF uuid
LANGUAGE plpgsql
SECURITY DEFINER
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $function$
BEGIN
    FOR i IN 1 .. cardinality(p_replies) LOOP
        BEGIN
            UPDATE messages m SET parts = p_parts[i]::jsonb, delta_ends = p_delta_ends[i]::integer[]
            WHERE m.user_id = p_users[i] AND m.id = p_replies[i] AND m.state = 'pending' AND m.attempt = p_attempts[i];
            IF NOT FOUND THEN
                RETURN NEXT p_replies[i];
            END IF;
        EXCEPTION WHEN data_exception THEN
            NULL;  -- A text that cannot be stored is its own reply's trouble, at its end.
        END;
    END LOOP;
END
$function$;
