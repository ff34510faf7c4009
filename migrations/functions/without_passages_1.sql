-- A context report whose passages of the given messages have lost their text; what the search said of them stays.
CREATE FUNCTION without_passages(p_report jsonb, p_messages uuid[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT jsonb_set(p_report, '{hits}', coalesce(jsonb_agg(
        CASE WHEN (hit->>'message_id')::uuid = ANY (p_messages) THEN jsonb_set(hit, '{text}', '""') ELSE hit END
        ORDER BY place), '[]'))
    FROM jsonb_array_elements(p_report->'hits') WITH ORDINALITY AS of_report (hit, place)
$function$;
