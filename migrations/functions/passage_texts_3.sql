-- The texts of passages that a search has found, of messages and of chunks of documents, by their unit and number.
--
-- Each is looked up by itself (`OFFSET 0` keeps these steps apart). While the tables are small, or were when a connection
-- planned this, the planner would rather read all that the user has, and keep that plan when it has become much.
--
-- Row-level security names the owners of chunks and documents once more, and of two conditions the planner expects the
-- product of their shares. By that, reading all that the user has would again seem as good as a look at one row. So a
-- chunk is looked up by the keys of all its indexes, and the documents, which are fewer, together.
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
    SELECT w.place::integer, t.message_id, t.conversation_id, t.created_at, t.span_start, t.span_end, t.role, t.parts,
           NULL::uuid, NULL::text, NULL::text[], NULL::integer, NULL::text
    FROM unnest(p_units, p_passages) WITH ORDINALITY AS w (unit, passage, place)
    CROSS JOIN LATERAL (
        SELECT e.message_id, e.conversation_id, e.created_at, e.span_start, e.span_end, m.role, m.parts
        FROM embeddings e JOIN messages m ON m.user_id = p_user AND m.id = e.message_id
        WHERE e.user_id = p_user AND e.space_id = p_space AND e.message_id = w.unit AND e.passage = w.passage
          AND e.source = 0
        OFFSET 0
    ) t;

    GET DIAGNOSTICS told = ROW_COUNT;
    IF told = cardinality(p_units) THEN
        RETURN;
    END IF;

    RETURN QUERY
    WITH k AS MATERIALIZED (
        SELECT w.place, c.*
        FROM unnest(p_units, p_passages) WITH ORDINALITY AS w (unit, passage, place)
        CROSS JOIN LATERAL (
            SELECT e.user_id, e.conversation_id AS document_id, e.depth AS number FROM embeddings e
            WHERE e.user_id = ANY (ARRAY[p_user, p_shared]) AND e.space_id = p_space AND e.message_id = w.unit
              AND e.passage = w.passage AND e.source <> 0
            OFFSET 0
        ) e
        CROSS JOIN LATERAL (
            SELECT k.user_id, k.id, k.document_id, k.span_start, k.span_end, k.headings, k.page, k.text
            FROM document_chunks k
            WHERE k.user_id = ANY (ARRAY[p_user, p_shared]) AND k.document_id = e.document_id AND k.number = e.number
              AND k.id = w.unit AND (k.user_id = e.user_id) IS TRUE
            OFFSET 0
        ) c
    ), d AS MATERIALIZED (
        SELECT d.user_id, d.id, d.created_at, d.collection_id, d.title FROM documents d
        WHERE d.user_id = ANY (ARRAY[p_user, p_shared]) AND d.id = ANY (ARRAY(SELECT k.document_id FROM k))
    )
    SELECT k.place::integer, k.id, k.document_id, d.created_at, k.span_start, k.span_end, NULL::text, NULL::jsonb,
           d.collection_id, d.title, k.headings, k.page, k.text
    FROM k JOIN d ON d.user_id = k.user_id AND d.id = k.document_id;
END
$function$;
