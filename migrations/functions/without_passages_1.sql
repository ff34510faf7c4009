-- A context report whose passages of the given messages and documents have lost their text, and a document's its title
-- and headings; what the search said of them stays.
CREATE FUNCTION without_passages(p_report jsonb, p_sources uuid[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT p_report || jsonb_object_agg(list, coalesce((
        SELECT jsonb_agg(
            CASE WHEN (item->>'message_id')::uuid = ANY (p_sources)
                   OR (item->'citation'->>'document_id')::uuid = ANY (p_sources)
                 THEN item
                      || CASE WHEN item ? 'text' THEN '{"text": ""}' ELSE '{}' END::jsonb
                      || CASE WHEN jsonb_typeof(item->'citation') = 'object'
                              THEN jsonb_build_object('citation', item->'citation' || '{"title": "", "headings": []}')
                              ELSE '{}' END
                 ELSE item END
            ORDER BY place)
        FROM jsonb_array_elements(p_report->list) WITH ORDINALITY AS items (item, place)), '[]'))
    FROM unnest(ARRAY['hits', 'dropped']) AS list
$function$;
