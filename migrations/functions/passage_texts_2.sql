-- The texts of passages that a search has found, of messages and of chunks of documents, by their unit and number.
CREATE FUNCTION passage_texts(
    p_user uuid, p_shared uuid, p_space smallint, p_units uuid[], p_passages smallint[],
    OUT place integer, OUT unit uuid, OUT container uuid, OUT created_at timestamptz,
    OUT span_start integer, OUT span_end integer, OUT role text, OUT parts jsonb,
    OUT collection uuid, OUT title text, OUT headings text[], OUT page integer, OUT text text
)
RETURNS SETOF record
LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
DECLARE
    told bigint;
BEGIN
    PERFORM set_config('chatrpc.user_id', p_user::text, true),
            set_config('chatrpc.shared_id', coalesce(p_shared::text, ''), true);

    RETURN QUERY
    SELECT w.place::integer, e.message_id, e.conversation_id, e.created_at, e.span_start, e.span_end, m.role, m.parts,
           NULL::uuid, NULL::text, NULL::text[], NULL::integer, NULL::text
    FROM unnest(p_units, p_passages) WITH ORDINALITY AS w (unit, passage, place)
    JOIN embeddings e ON e.user_id = p_user AND e.space_id = p_space AND e.message_id = w.unit
     AND e.passage = w.passage AND e.source = 0
    JOIN messages m ON m.user_id = p_user AND m.id = w.unit;

    GET DIAGNOSTICS told = ROW_COUNT;
    IF told = cardinality(p_units) THEN
        RETURN;
    END IF;

    RETURN QUERY
    SELECT w.place::integer, k.id, k.document_id, d.created_at, k.span_start, k.span_end, NULL::text, NULL::jsonb,
           d.collection_id, d.title, k.headings, k.page, k.text
    FROM unnest(p_units) WITH ORDINALITY AS w (unit, place)
    JOIN document_chunks k ON k.user_id = ANY (ARRAY[p_user, p_shared]) AND k.id = w.unit
    JOIN documents d ON d.user_id = k.user_id AND d.id = k.document_id;
END
$function$;
