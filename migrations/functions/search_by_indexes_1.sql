-- Units that may be near, of owners with so many passages that they have indexes of their own (`chatrpc index` makes
-- them), by these; null where such an index is missing. Of an owner with few passages, all.
--
-- It runs as the schema's owner, since row-level security keeps operators like && out of an index's conditions. It
-- gives ids alone, and who reads their rows is bound again. The migration binds it to the schema, since no search path
-- of its caller's may count.
CREATE FUNCTION search_by_indexes(
    p_user uuid, p_shared uuid, p_conversation uuid, p_ends integer[], p_through integer,
    p_vector halfvec, p_space smallint, p_rare integer[], p_elsewhere boolean, p_collections uuid[],
    p_exact_to integer, p_near integer
)
RETURNS uuid[]
LANGUAGE plpgsql
SECURITY DEFINER
SET enable_seqscan = off
SET enable_bitmapscan = on
SET enable_sort = off
SET max_parallel_workers_per_gather = 0
SET hnsw.iterative_scan = 'relaxed_order'
SET hnsw.ef_search = 200
AS $function$
#variable_conflict use_column
DECLARE
    candidates uuid[] := '{}';
    -- Constants, since a partial index serves only conditions that the planner can compare with its own.
    condition text;
    suffix text;
    part uuid[];
    owner record;
BEGIN
    FOR owner IN
        SELECT c.user_id, c.passages FROM embedding_counts c
        WHERE c.user_id = ANY (ARRAY[p_user, p_shared]) AND c.space_id = p_space
    LOOP
        condition := format(
            'e.user_id = %L AND e.space_id = %s AND in_scope(e, $1, $2, $3, $4, $5, $6)', owner.user_id, p_space);
        IF owner.passages <= p_exact_to THEN
            EXECUTE 'SELECT array_agg(e.message_id) FROM embeddings e WHERE ' || condition
            INTO part USING p_user, p_conversation, p_through, p_ends, p_elsewhere, p_collections;
            candidates := candidates || part;
            CONTINUE;
        END IF;

        suffix := replace(owner.user_id::text, '-', '') || '_' || p_space;
        IF (SELECT count(*) FROM pg_index i
            WHERE i.indexrelid = ANY (ARRAY[to_regclass('own_vectors_' || suffix), to_regclass('own_terms_' || suffix)])
              AND i.indisvalid) < 2 THEN
            RETURN NULL;
        END IF;
        EXECUTE format(
            'SELECT ARRAY(SELECT e.message_id FROM embeddings e WHERE %1$s '
            'ORDER BY (e.embedding::halfvec(%2$s)) <#> $7::halfvec(%2$s) LIMIT $8)', condition, vector_dims(p_vector))
        INTO part USING p_user, p_conversation, p_through, p_ends, p_elsewhere, p_collections, p_vector, p_near;
        candidates := candidates || part;
        EXECUTE 'SELECT ARRAY(SELECT e.message_id FROM embeddings e WHERE term_places(e.terms) && $7 AND '
                || condition || ')'
        INTO part USING p_user, p_conversation, p_through, p_ends, p_elsewhere, p_collections, p_rare;
        candidates := candidates || part;
    END LOOP;
    RETURN ARRAY(SELECT DISTINCT unnest(candidates));
END
$function$;
