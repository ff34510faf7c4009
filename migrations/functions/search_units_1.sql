-- What a hybrid search over one user's passages, and those that the shared owner shares, has to score: the passages as
-- parallel arrays of PostgreSQL's binary forms, one behind the other, which a client reads without a step a row.
--
-- Where the passages are few, all in scope are given. Where they are many, those that a first look finds near, by
-- indexes where the user has some and else by the signs of the vectors, those that hold the query's rarest terms, and
-- the units beside the best of both.
--
-- A scope that leaves out the user's other conversations may be small though the user has many passages: then the
-- conversation and the documents are read by indexes of theirs.
--
-- The scope is that of in_scope. `p_look` is what look_by_words has found for the same query, or null.
--
-- `p_terms` are the places of the query's terms in the vectors of terms; `matches` are products with term_digits.
CREATE FUNCTION search_units(
    p_user uuid, p_shared uuid, p_conversation uuid, p_ends integer[], p_through integer,
    p_vector halfvec, p_space smallint, p_terms integer[], p_elsewhere boolean, p_collections uuid[],
    p_exact_to integer, p_indexed_from integer, p_near integer, p_look search_look,
    OUT tier text, OUT population bigint, OUT mean_length double precision,
    OUT dense_mean double precision, OUT dense_std double precision, OUT document_frequency integer[],
    OUT units bytea, OUT passages bytea, OUT owners bytea, OUT containers bytea,
    OUT places bytea, OUT cosines bytea, OUT lengths bytea, OUT moments bytea, OUT matches bytea[]
)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET max_parallel_workers_per_gather = 0
SET work_mem = '32MB'
AS $function$
#variable_conflict use_column
DECLARE
    -- The user again where nobody shares anything. Conditions on the owner are written so that the executor sees from the
    -- beginning which partitions it needs.
    sharer uuid := CASE WHEN p_collections IS DISTINCT FROM '{}' THEN coalesce(p_shared, p_user) ELSE p_user END;
    digits sparsevec[] := term_digits(p_terms);
    look search_look := p_look;
    chosen uuid[];
BEGIN
    PERFORM set_config('chatrpc.user_id', p_user::text, true),
            set_config('chatrpc.shared_id', coalesce(p_shared::text, ''), true);

    IF look IS NULL THEN
        look := look_by_words(p_user, p_shared, p_conversation, p_ends, p_through, p_space, p_terms, p_elsewhere,
                              p_collections, p_exact_to, p_near);
    END IF;
    tier := 'exact';
    IF look.size > p_exact_to AND NOT look.narrow THEN
        SELECT v.tier, v.chosen, v.dense_mean, v.dense_std INTO tier, chosen, dense_mean, dense_std
        FROM look_by_vector(
            p_user, sharer, p_conversation, p_ends, p_through, p_vector, p_space, p_elsewhere, p_collections, p_exact_to,
            look.size >= p_indexed_from, p_near, look
        ) v;
        population := look.population;
        mean_length := look.mean_length;
        document_frequency := look.document_frequency;
    END IF;

    SELECT string_agg(uuid_send(e.message_id), ''), string_agg(int2send(e.passage), ''),
           string_agg(boolsend(e.user_id <> p_user), ''), string_agg(uuid_send(e.conversation_id), ''),
           string_agg(int4send(e.depth), ''), string_agg(float4send((e.embedding <#> p_vector)::real), ''),
           string_agg(int4send(e.length), ''), string_agg(timestamptz_send(e.created_at), ''),
           ARRAY[string_agg(float4send((e.terms <#> digits[1])::real), ''),
                 string_agg(float4send((e.terms <#> digits[2])::real), ''),
                 string_agg(float4send((e.terms <#> digits[3])::real), ''),
                 string_agg(float4send((e.terms <#> digits[4])::real), '')]
    INTO units, passages, owners, containers, places, cosines, lengths, moments, matches
    -- Of these the executor begins those that the case needs.
    FROM (
        SELECT e.* FROM embeddings e
        WHERE chosen IS NULL AND NOT look.narrow AND e.user_id = ANY (ARRAY[p_user, sharer]) AND e.space_id = p_space
          AND in_scope(e.user_id, e.source, e.collection_id, e.conversation_id, e.branch, e.depth, e.active,
                       p_user, p_conversation, p_through, p_ends, p_elsewhere, p_collections)
        UNION ALL
        SELECT e.* FROM embeddings e
        WHERE look.narrow AND e.user_id = p_user AND e.space_id = p_space AND e.conversation_id = p_conversation
          AND e.source = 0 AND e.depth <= p_through AND e.depth <= p_ends[e.branch + 1]
        UNION ALL
        SELECT e.* FROM embeddings e
        WHERE look.narrow AND p_collections IS NULL AND e.user_id = ANY (ARRAY[p_user, sharer]) AND e.space_id = p_space
          AND e.source <> 0
        UNION ALL
        SELECT e.* FROM embeddings e
        WHERE look.narrow AND e.user_id = ANY (ARRAY[p_user, sharer]) AND e.space_id = p_space
          AND e.collection_id = ANY (p_collections) AND e.source <> 0
        UNION ALL
        SELECT e.* FROM embeddings e
        WHERE chosen IS NOT NULL AND e.user_id = ANY (ARRAY[p_user, sharer]) AND e.space_id = p_space
          AND e.message_id = ANY (chosen)
          AND in_scope(e.user_id, e.source, e.collection_id, e.conversation_id, e.branch, e.depth, e.active,
                       p_user, p_conversation, p_through, p_ends, p_elsewhere, p_collections)
    ) e;
END
$function$;
