-- The passages in scope that hold any of some terms, and which of the query's terms they hold, as products with
-- term_digits. At most `p_most` of an owner, whichever are found first.
--
-- Where `p_others` is not empty, a passage must hold one of these too.
--
-- It runs as the schema's owner, since row-level security keeps operators like && out of an index's conditions; so it
-- refuses to look for another user than the one to whom row-level security binds its caller. The migration binds it to
-- the schema, since no search path of its caller's may count.
CREATE FUNCTION search_by_words(
    p_user uuid, p_shared uuid, p_conversation uuid, p_ends integer[], p_through integer, p_space smallint,
    p_rare integer[], p_others integer[], p_digits sparsevec[], p_elsewhere boolean, p_collections uuid[], p_most integer,
    OUT message_id uuid, OUT conversation_id uuid, OUT branch integer, OUT depth integer,
    OUT low_terms bigint, OUT high_terms bigint
)
RETURNS SETOF record
LANGUAGE plpgsql
SECURITY DEFINER
SET enable_bitmapscan = off
SET max_parallel_workers_per_gather = 0
AS $function$
DECLARE
    owner record;
BEGIN
    IF p_user::text IS DISTINCT FROM current_setting('chatrpc.user_id', true)
       OR p_shared <> p_user AND p_shared::text IS DISTINCT FROM current_setting('chatrpc.shared_id', true) THEN
        RAISE insufficient_privilege USING MESSAGE = 'Only the user to whom the session is bound can be searched.';
    END IF;
    FOR owner IN
        SELECT o.id, (SELECT e.tableoid::regclass FROM embeddings e
                      WHERE e.user_id = o.id AND e.user_id = ANY (ARRAY[p_user, p_shared]) LIMIT 1) AS partition
        FROM (SELECT DISTINCT unnest(ARRAY[p_user, p_shared])) AS o (id)
    LOOP
        CONTINUE WHEN owner.partition IS NULL;
        -- Only here: the partition would else be found by a bitmap of all passages of its owner.
        PERFORM set_config('enable_bitmapscan', 'on', true);
        -- The partition is named and the other conditions are hidden from the indexes, since by what the planner knows
        -- of an average user it would rather read all passages of a large one.
        RETURN QUERY EXECUTE format(
            'SELECT e.message_id, e.conversation_id, e.branch, e.depth, '
            '(-coalesce(e.terms <#> $3[1], 0) - coalesce(e.terms <#> $3[2], 0) * 16777216)::bigint, '
            '(-coalesce(e.terms <#> $3[3], 0) - coalesce(e.terms <#> $3[4], 0) * 16777216)::bigint '
            'FROM %s e WHERE term_keys(e.user_id, e.terms) && $1 AND %s '
            '(e.user_id = $4 AND e.space_id = $5) IS TRUE AND in_scope(e.user_id, e.source, e.collection_id, '
            'e.conversation_id, e.branch, e.depth, e.active, $6, $7, $8, $9, $10, $11) LIMIT $12',
            owner.partition,
            CASE WHEN p_others <> '{}' THEN 'term_keys(e.user_id, e.terms) && $2 AND' ELSE '' END
        )
        USING ARRAY(SELECT (uuid_hash(owner.id)::bigint << 32) + place FROM unnest(p_rare) AS place),
              ARRAY(SELECT (uuid_hash(owner.id)::bigint << 32) + place FROM unnest(p_others) AS place),
              p_digits, owner.id, p_space, p_user, p_conversation, p_through, p_ends, p_elsewhere, p_collections, p_most;
    END LOOP;
END
$function$;
