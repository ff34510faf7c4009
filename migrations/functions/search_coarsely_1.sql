-- The first look at many passages, by what the primary key of embeddings includes: which units are worth an exact look,
-- and what can be said of all in scope.
--
-- A sample tells how far away the near ones may be, so that one pass over the index keeps few of them; where the sample
-- was mistaken, a second pass keeps all. What is said of all is estimated from the sample, but for how many passages
-- hold each term, which the pass counts.
CREATE FUNCTION search_coarsely(
    p_user uuid, p_everyone uuid[], p_conversation uuid, p_ends integer[], p_through integer,
    p_vector halfvec, p_space smallint, p_terms sparsevec[], p_elsewhere boolean, p_collections uuid[], p_near integer,
    OUT chosen uuid[], OUT population bigint, OUT mean_length double precision,
    OUT dense_mean double precision, OUT dense_std double precision, OUT document_frequency integer[]
)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET max_parallel_workers_per_gather = 0
SET work_mem = '32MB'
AS $function$
#variable_conflict use_column
DECLARE
    slices constant integer := 4;
    slice_size constant integer := 128;
    -- The nearest and the best by words, each so many, whose neighbours are looked at too.
    seeds constant integer := 32;
    signs bit varying := binary_quantize(p_vector);
    terms_1 sparsevec := p_terms[1];
    terms_2 sparsevec := p_terms[2];
    terms_3 sparsevec := p_terms[3];
    terms_4 sparsevec := p_terms[4];
    farthest integer;
    found integer;
BEGIN
    -- Slices of the order of ids, which is mostly that of time; of each owner, since their sizes differ.
    WITH ranges AS (
        SELECT o.id AS owner, c.passages,
               ('x' || left(replace((
                   SELECT e.message_id FROM embeddings e WHERE e.user_id = o.id AND e.space_id = p_space
                   ORDER BY e.message_id LIMIT 1)::text, '-', ''), 15))::bit(60)::bigint AS low,
               ('x' || left(replace((
                   SELECT e.message_id FROM embeddings e WHERE e.user_id = o.id AND e.space_id = p_space
                   ORDER BY e.message_id DESC LIMIT 1)::text, '-', ''), 15))::bit(60)::bigint AS high
        FROM unnest(p_everyone) AS o (id)
        JOIN embedding_counts c ON c.user_id = o.id AND c.space_id = p_space
    ), sampled AS MATERIALIZED (
        SELECT r.owner, r.passages, s.*
        FROM ranges r CROSS JOIN generate_series(0, slices - 1) AS slice
        CROSS JOIN LATERAL (
            SELECT in_scope(e, p_user, p_conversation, p_through, p_ends, p_elsewhere, p_collections) AS inside,
                   e.passage, e.length, (e.code <~> signs)::integer AS distance, -(e.embedding <#> p_vector) AS cosine
            FROM embeddings e
            WHERE e.user_id = r.owner AND e.space_id = p_space
              AND e.message_id >= (lpad(to_hex(r.low + (r.high - r.low) / slices * slice), 15, '0')
                                   || repeat('0', 17))::uuid
            ORDER BY e.message_id, e.passage
            LIMIT slice_size
        ) s
    ), weighed AS (
        SELECT s.inside, s.passage, s.length, s.distance, s.cosine,
               s.passages::double precision / count(*) OVER (PARTITION BY s.owner) AS weight
        FROM sampled s
    )
    SELECT coalesce(sum(w.weight) FILTER (WHERE w.passage = 0), 0),
           coalesce(sum(w.weight * w.length) / nullif(sum(w.weight) FILTER (WHERE w.passage = 0), 0), 0),
           coalesce(sum(w.weight * w.cosine) / sum(w.weight), 0),
           coalesce(sqrt(greatest(0, sum(w.weight * w.cosine ^ 2) / sum(w.weight)
                                     - (sum(w.weight * w.cosine) / sum(w.weight)) ^ 2)), 0),
           -- Twice as many as are wanted, or the eighth nearest of the sample, below which chance rules.
           (array_agg(w.distance ORDER BY w.distance))[
               greatest(8, ceil(count(*) * least(1, 2 * p_near / sum(w.weight))))]
    INTO population, mean_length, dense_mean, dense_std, farthest
    FROM weighed w
    WHERE w.inside;

    FOR attempt IN 1 .. 2 LOOP
        WITH looked_at AS (
            SELECT e.user_id, e.message_id, e.conversation_id, e.branch, e.depth,
                   (e.code <~> signs)::integer AS distance,
                   -(e.terms <#> terms_1) AS holds_1, -(e.terms <#> terms_2) AS holds_2,
                   -(e.terms <#> terms_3) AS holds_3, -(e.terms <#> terms_4) AS holds_4
            FROM embeddings e
            WHERE e.user_id = ANY (p_everyone) AND e.space_id = p_space
              AND in_scope(e, p_user, p_conversation, p_through, p_ends, p_elsewhere, p_collections)
            OFFSET 0
        ), kept AS MATERIALIZED (
            SELECT l.user_id, l.message_id, l.conversation_id, l.branch, l.depth, l.distance,
                   (coalesce(l.holds_1, 0) + coalesce(l.holds_2, 0) * 16777216)::bigint AS low_terms,
                   (coalesce(l.holds_3, 0) + coalesce(l.holds_4, 0) * 16777216)::bigint AS high_terms
            FROM looked_at l
            WHERE farthest IS NULL OR l.distance <= farthest
               OR l.holds_1 > 0 OR l.holds_2 > 0 OR l.holds_3 > 0 OR l.holds_4 > 0
        ), near AS MATERIALIZED (
            SELECT k.* FROM kept k WHERE farthest IS NULL OR k.distance <= farthest ORDER BY k.distance LIMIT p_near
        -- Most passages that hold some of the terms hold the same ones as many others.
        ), patterns AS (
            SELECT k.low_terms, k.high_terms, count(*) AS passages FROM kept k
            WHERE k.low_terms > 0 OR k.high_terms > 0
            GROUP BY k.low_terms, k.high_terms
        ), holdings AS MATERIALIZED (
            SELECT p.low_terms, p.high_terms, p.passages, t.term,
                   (CASE WHEN t.term < 16 THEN p.low_terms ELSE p.high_terms END >> (t.term % 16 * 3)) & 7 AS frequency
            FROM patterns p CROSS JOIN generate_series(0, 8 * cardinality(p_terms) - 1) AS t (term)
        ), frequencies AS MATERIALIZED (
            SELECT h.term, sum(h.passages) FILTER (WHERE h.frequency > 0) AS passages FROM holdings h GROUP BY h.term
        -- BM25, without the length, which the exact look adds.
        ), scores AS (
            SELECT h.low_terms, h.high_terms,
                   sum(ln(1 + greatest(0.5, population - f.passages + 0.5) / (f.passages + 0.5))
                       * h.frequency / (h.frequency + 1.2)) AS score
            FROM holdings h JOIN frequencies f ON f.term = h.term
            WHERE h.frequency > 0
            GROUP BY h.low_terms, h.high_terms
        ), worded AS MATERIALIZED (
            SELECT k.*, s.score FROM scores s
            JOIN kept k ON k.low_terms = s.low_terms AND k.high_terms = s.high_terms
            ORDER BY s.score DESC, k.distance
            LIMIT p_near
        ), beside AS (
            SELECT n.message_id
            FROM (
                (SELECT user_id, conversation_id, branch, depth FROM near ORDER BY distance LIMIT seeds)
                UNION
                (SELECT user_id, conversation_id, branch, depth FROM worded ORDER BY score DESC, distance LIMIT seeds)
            ) s
            JOIN embeddings n ON n.user_id = s.user_id AND n.conversation_id = s.conversation_id
             AND n.branch = s.branch AND n.depth BETWEEN s.depth - 2 AND s.depth + 2
        )
        SELECT ARRAY(SELECT message_id FROM near UNION SELECT message_id FROM worded UNION SELECT message_id FROM beside),
               ARRAY(SELECT coalesce(f.passages, 0)::integer
                     FROM generate_series(0, 8 * cardinality(p_terms) - 1) AS t (term)
                     LEFT JOIN frequencies f ON f.term = t.term
                     ORDER BY t.term),
               (SELECT count(*) FROM near)
        INTO chosen, document_frequency, found;
        EXIT WHEN farthest IS NULL OR found >= p_near;
        farthest := NULL;
    END LOOP;
END
$function$;
