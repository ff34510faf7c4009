-- What was reserved for a reply, as a usage: so much is booked for an attempt whose own count died with its process.
CREATE FUNCTION reservation(p_prompt integer, p_completion integer) RETURNS jsonb
LANGUAGE sql
IMMUTABLE
AS $function$
    SELECT jsonb_build_object('prompt_tokens', coalesce(p_prompt, 0), 'cached_tokens', 0,
                              'completion_tokens', coalesce(p_completion, 0), 'estimated', true)
$function$;
