-- The passages in scope nearest to a vector, nearest first, of owners with so many passages that they have an index of
-- their own (`chatrpc index` makes them), by these; none where such an index is missing. Of an owner with few passages,
-- all are compared.
--
-- It runs as the schema's owner, like search_by_words and for the same reason.
CREATE FUNCTION search_by_vectors(
    p_user uuid, p_shared uuid, p_conversation uuid, p_ends integer[], p_through integer,
    p_vector halfvec, p_space smallint, p_elsewhere boolean, p_collections uuid[], p_exact_to integer, p_near integer,
    OUT message_id uuid, OUT conversation_id uuid, OUT branch integer, OUT depth integer, OUT distance double precision
)
RETURNS SETOF record
LANGUAGE plpgsql
SECURITY DEFINER
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
SET max_parallel_workers_per_gather = 0
SET hnsw.iterative_scan = 'relaxed_order'
SET hnsw.ef_search = 200
AS $function$
DECLARE
    owner record;
BEGIN
    IF p_user::text IS DISTINCT FROM current_setting('chatrpc.user_id', true)
       OR p_shared <> p_user AND p_shared::text IS DISTINCT FROM current_setting('chatrpc.shared_id', true) THEN
        RAISE insufficient_privilege USING MESSAGE = 'Only the user to whom the session is bound can be searched.';
    END IF;
    IF EXISTS (
        SELECT 1 FROM embedding_counts c
        WHERE c.user_id = ANY (ARRAY[p_user, p_shared]) AND c.space_id = p_space AND c.passages > p_exact_to
          AND NOT EXISTS (
              SELECT 1 FROM pg_index i
              WHERE i.indexrelid = to_regclass('own_vectors_' || replace(c.user_id::text, '-', '') || '_' || p_space)
                AND i.indisvalid)
    ) THEN
        RETURN;
    END IF;
    FOR owner IN
        SELECT c.user_id, c.passages FROM embedding_counts c
        WHERE c.user_id = ANY (ARRAY[p_user, p_shared]) AND c.space_id = p_space
    LOOP
        PERFORM set_config('enable_sort', (owner.passages <= p_exact_to)::text, true);
        -- Constants, since a partial index serves only conditions that the planner can compare with its own.
        RETURN QUERY EXECUTE format(
            'SELECT e.message_id, e.conversation_id, e.branch, e.depth, '
            '(e.embedding::halfvec(%1$s)) <#> $1::halfvec(%1$s) FROM embeddings e '
            'WHERE e.user_id = %2$L AND e.space_id = %3$s AND in_scope(e.user_id, e.source, e.collection_id, '
            'e.conversation_id, e.branch, e.depth, e.active, $2, $3, $4, $5, $6, $7) '
            'ORDER BY (e.embedding::halfvec(%1$s)) <#> $1::halfvec(%1$s) LIMIT $8',
            vector_dims(p_vector), owner.user_id, p_space
        )
        USING p_vector, p_user, p_conversation, p_through, p_ends, p_elsewhere, p_collections, p_near;
    END LOOP;
END
$function$;
