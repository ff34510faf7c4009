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
-- The scope is that of in_scope; where `p_through` is null, it is through the summary that hot_path would find.
--
-- `p_terms` are the places of the query's terms in the vectors of terms; `matches` are products with term_digits.
CREATE FUNCTION search_pool(
    p_user uuid, p_shared uuid, p_conversation uuid, p_ends integer[], p_last_anchor integer, p_through integer,
    p_vector halfvec, p_space smallint, p_terms integer[], p_elsewhere boolean, p_collections uuid[],
    p_exact_to integer, p_indexed_from integer, p_near integer,
    OUT tier text, OUT population bigint, OUT mean_length double precision,
    OUT dense_mean double precision, OUT dense_std double precision, OUT document_frequency integer[],
    OUT units bytea, OUT passages bytea, OUT owners bytea, OUT containers bytea, OUT sources bytea, OUT branches bytea,
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
    through integer := p_through;
    digits sparsevec[] := term_digits(p_terms);
    size bigint;
    narrow boolean := false;
    documents bigint;
    chosen uuid[];
    looked record;
BEGIN
    PERFORM set_config('chatrpc.user_id', p_user::text, true),
            set_config('chatrpc.shared_id', coalesce(p_shared::text, ''), true);

    IF through IS NULL THEN
        SELECT s.anchor_depth INTO through FROM summaries s
        WHERE s.user_id = p_user AND s.conversation_id = p_conversation
          AND s.anchor_depth <= p_last_anchor AND s.anchor_depth <= p_ends[s.anchor_branch + 1]
        ORDER BY s.anchor_depth DESC, s.version DESC
        LIMIT 1;
        through := coalesce(through, 0);
    END IF;

    SELECT coalesce(sum(c.passages), 0) INTO size FROM embedding_counts c
    WHERE c.user_id = ANY (ARRAY[p_user, sharer]) AND c.space_id = p_space;
    IF NOT p_elsewhere AND size > p_exact_to THEN
        -- Counted no further than it matters.
        SELECT count(*) INTO documents FROM (
            SELECT FROM embeddings e
            WHERE p_collections IS NULL AND e.user_id = ANY (ARRAY[p_user, sharer]) AND e.source <> 0
            UNION ALL
            SELECT FROM embeddings e
            WHERE e.user_id = ANY (ARRAY[p_user, sharer]) AND e.collection_id = ANY (p_collections) AND e.source <> 0
            LIMIT p_exact_to + 1
        ) d;
        narrow := through + documents <= p_exact_to;
    END IF;

    tier := 'exact';
    IF size > p_exact_to AND NOT narrow THEN
        SELECT * INTO looked FROM search_coarsely(
            p_user, sharer, p_conversation, p_ends, through, p_vector, p_space, p_terms, digits, p_elsewhere,
            p_collections, p_exact_to, size >= p_indexed_from, p_near
        );
        tier := looked.tier;
        chosen := looked.chosen;
        population := looked.population;
        mean_length := looked.mean_length;
        dense_mean := looked.dense_mean;
        dense_std := looked.dense_std;
        document_frequency := looked.document_frequency;
    END IF;

    SELECT string_agg(uuid_send(e.message_id), ''), string_agg(int2send(e.passage), ''),
           string_agg(boolsend(e.user_id <> p_user), ''), string_agg(uuid_send(e.conversation_id), ''),
           string_agg(int2send(e.source), ''), string_agg(int4send(e.branch), ''), string_agg(int4send(e.depth), ''),
           string_agg(float4send((e.embedding <#> p_vector)::real), ''), string_agg(int4send(e.length), ''),
           string_agg(timestamptz_send(e.created_at), ''),
           ARRAY[string_agg(float4send((e.terms <#> digits[1])::real), ''),
                 string_agg(float4send((e.terms <#> digits[2])::real), ''),
                 string_agg(float4send((e.terms <#> digits[3])::real), ''),
                 string_agg(float4send((e.terms <#> digits[4])::real), '')]
    INTO units, passages, owners, containers, sources, branches, places, cosines, lengths, moments, matches
    -- Of these the executor begins those that the case needs.
    FROM (
        SELECT e.* FROM embeddings e
        WHERE chosen IS NULL AND NOT narrow AND e.user_id = ANY (ARRAY[p_user, sharer]) AND e.space_id = p_space
          AND in_scope(e.user_id, e.source, e.collection_id, e.conversation_id, e.branch, e.depth, e.active,
                       p_user, p_conversation, through, p_ends, p_elsewhere, p_collections)
        UNION ALL
        SELECT e.* FROM embeddings e
        WHERE narrow AND e.user_id = p_user AND e.space_id = p_space AND e.conversation_id = p_conversation
          AND e.source = 0 AND e.depth <= through AND e.depth <= p_ends[e.branch + 1]
        UNION ALL
        SELECT e.* FROM embeddings e
        WHERE narrow AND p_collections IS NULL AND e.user_id = ANY (ARRAY[p_user, sharer]) AND e.space_id = p_space
          AND e.source <> 0
        UNION ALL
        SELECT e.* FROM embeddings e
        WHERE narrow AND e.user_id = ANY (ARRAY[p_user, sharer]) AND e.space_id = p_space
          AND e.collection_id = ANY (p_collections) AND e.source <> 0
        UNION ALL
        SELECT e.* FROM embeddings e
        WHERE chosen IS NOT NULL AND e.user_id = ANY (ARRAY[p_user, sharer]) AND e.space_id = p_space
          AND e.message_id = ANY (chosen)
          AND in_scope(e.user_id, e.source, e.collection_id, e.conversation_id, e.branch, e.depth, e.active,
                       p_user, p_conversation, through, p_ends, p_elsewhere, p_collections)
    ) e;
END
$function$;
