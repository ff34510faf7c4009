-- What a search among many passages can tell before it knows the query's vector: which units are worth an exact look by
-- their words, and what can be said of all in scope. So it is done while the query is being embedded.
--
-- Where the passages are few, or those in scope are, it only says so.
--
-- By words they are those that hold the query's rarest terms, by the index of words, and the units beside the best. A
-- sample tells which terms are rare. What is said of all is estimated from it, but for how many passages hold each of
-- the rare terms, which are all found. The parameters are those of search_units.
CREATE FUNCTION look_by_words(
    p_user uuid, p_shared uuid, p_conversation uuid, p_ends integer[], p_through integer, p_space smallint,
    p_terms integer[], p_elsewhere boolean, p_collections uuid[], p_exact_to integer, p_near integer
)
RETURNS search_look
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET max_parallel_workers_per_gather = 0
SET work_mem = '32MB'
AS $function$
#variable_conflict use_column
DECLARE
    slices constant integer := 8;
    slice_size constant integer := 16;
    -- The best, so many, whose neighbours are looked at too.
    most_seeds constant integer := 32;
    -- Passages that are looked at for their words, about so many: those of the query's rarest terms. Where the rarest
    -- alone is in more, those that hold another one too. The estimates may be far off, so there is a limit.
    most_worded constant integer := 3 * p_near;
    limit_worded constant integer := 2 * most_worded;
    -- The user again where nobody shares anything. Conditions on the owner are written so that the executor sees from the
    -- beginning which partitions it needs.
    sharer uuid := CASE WHEN p_collections IS DISTINCT FROM '{}' THEN coalesce(p_shared, p_user) ELSE p_user END;
    digits sparsevec[];
    documents bigint;
    estimated double precision[];
    rare boolean[];
    others integer[];
    look search_look;
BEGIN
    PERFORM set_config('chatrpc.user_id', p_user::text, true),
            set_config('chatrpc.shared_id', coalesce(p_shared::text, ''), true);

    SELECT coalesce(sum(c.passages), 0) INTO look.size FROM embedding_counts c
    WHERE c.user_id = ANY (ARRAY[p_user, sharer]) AND c.space_id = p_space;
    look.narrow := false;
    IF NOT p_elsewhere AND look.size > p_exact_to THEN
        -- Counted no further than it matters.
        SELECT count(*) INTO documents FROM (
            SELECT FROM embeddings e
            WHERE p_collections IS NULL AND e.user_id = ANY (ARRAY[p_user, sharer]) AND e.source <> 0
            UNION ALL
            SELECT FROM embeddings e
            WHERE e.user_id = ANY (ARRAY[p_user, sharer]) AND e.collection_id = ANY (p_collections) AND e.source <> 0
            LIMIT p_exact_to + 1
        ) d;
        look.narrow := p_through + documents <= p_exact_to;
    END IF;
    IF look.size <= p_exact_to OR look.narrow THEN
        RETURN look;
    END IF;

    digits := term_digits(p_terms);
    -- Slices of the order of ids, which is mostly that of time; of each owner, since their sizes differ.
    --
    -- Conditions on the owner name the parameters, and in this form: by others the executor does not see from the
    -- beginning which partitions it needs, and opens all.
    WITH ends AS MATERIALIZED (
        SELECT o.id AS owner, c.passages,
               replace((SELECT e.message_id FROM embeddings e
                        WHERE e.user_id = o.id AND e.user_id = ANY (ARRAY[p_user, sharer]) AND e.space_id = p_space
                        ORDER BY e.message_id LIMIT 1)::text, '-', '') AS low,
               replace((SELECT e.message_id FROM embeddings e
                        WHERE e.user_id = o.id AND e.user_id = ANY (ARRAY[p_user, sharer]) AND e.space_id = p_space
                        ORDER BY e.message_id DESC LIMIT 1)::text, '-', '') AS high
        FROM (SELECT DISTINCT unnest(ARRAY[p_user, sharer])) AS o (id)
        JOIN embedding_counts c ON c.user_id = o.id AND c.space_id = p_space
    ), ranges AS MATERIALIZED (
        -- Between the ends it is reckoned with the fifteen digits from where they begin to differ.
        SELECT d.owner, d.passages, left(d.low, d.same) AS beginning,
               ('x' || substr(d.low, d.same + 1, 15))::bit(60)::bigint AS low,
               ('x' || substr(d.high, d.same + 1, 15))::bit(60)::bigint AS high
        FROM (
            SELECT e.*, (SELECT count(*)::integer FROM generate_series(1, 17) AS n WHERE left(e.low, n) = left(e.high, n))
                   AS same
            FROM ends e
        ) d
    ), sampled AS MATERIALIZED (
        SELECT r.owner, r.passages, s.*
        FROM ranges r CROSS JOIN generate_series(0, slices - 1) AS slice
        CROSS JOIN LATERAL (
            SELECT in_scope(e.user_id, e.source, e.collection_id, e.conversation_id, e.branch, e.depth, e.active,
                            p_user, p_conversation, p_through, p_ends, p_elsewhere, p_collections) AS inside,
                   e.message_id, e.passage, e.length,
                   (-(e.terms <#> digits[1]))::integer AS holds_1, (-(e.terms <#> digits[2]))::integer AS holds_2,
                   (-(e.terms <#> digits[3]))::integer AS holds_3, (-(e.terms <#> digits[4]))::integer AS holds_4
            FROM embeddings e
            WHERE e.user_id = r.owner AND e.user_id = ANY (ARRAY[p_user, sharer]) AND e.space_id = p_space
              AND e.message_id >= rpad(r.beginning || lpad(to_hex(r.low + (r.high - r.low) / slices * slice), 15, '0'),
                                       32, '0')::uuid
            ORDER BY e.message_id, e.passage
            LIMIT slice_size
        ) s
    ), weighed AS MATERIALIZED (
        SELECT s.*, s.passages::double precision / count(*) OVER (PARTITION BY s.owner) AS weight
        FROM sampled s
    ), sampled_patterns AS (
        SELECT w.holds_1, w.holds_2, w.holds_3, w.holds_4, sum(w.weight) AS passages
        FROM weighed w WHERE w.inside GROUP BY w.holds_1, w.holds_2, w.holds_3, w.holds_4
    ), holders AS (
        SELECT t.term, sum(p.passages) FILTER (
                   WHERE (CASE t.term / 8 WHEN 0 THEN p.holds_1 WHEN 1 THEN p.holds_2 WHEN 2 THEN p.holds_3
                                          ELSE p.holds_4 END >> (t.term % 8 * 3)) & 7 > 0) AS passages
        FROM generate_series(0, cardinality(p_terms) - 1) AS t (term) CROSS JOIN sampled_patterns p
        GROUP BY t.term
    )
    SELECT coalesce(sum(w.weight) FILTER (WHERE w.passage = 0), 0),
           coalesce(sum(w.weight * w.length) / nullif(sum(w.weight) FILTER (WHERE w.passage = 0), 0), 0),
           coalesce(sum(w.weight), 0), sum(w.weight) > 0.2 * (SELECT sum(passages) FROM ranges),
           array_agg(w.message_id), array_agg(w.passage),
           min(w.weight) FILTER (WHERE w.owner = p_user), min(w.weight) FILTER (WHERE w.owner <> p_user),
           ARRAY(SELECT coalesce(h.passages, 0) FROM generate_series(0, cardinality(p_terms) - 1) AS t (term)
                 LEFT JOIN holders h ON h.term = t.term ORDER BY t.term)
    INTO look.population, look.mean_length, look.passages, look.wide, look.sampled, look.sampled_passages,
         look.own_weight, look.shared_weight, estimated
    FROM weighed w
    WHERE w.inside;

    SELECT array_agg(r.reached <= most_worded OR r.rank = 1 ORDER BY r.term),
           CASE WHEN min(r.reached) > most_worded THEN array_agg(p_terms[r.term]) FILTER (WHERE r.rank > 1) END
    INTO rare, others
    FROM (
        SELECT e.term, sum(e.passages) OVER (ORDER BY e.passages, e.term) AS reached,
               row_number() OVER (ORDER BY e.passages, e.term) AS rank
        FROM unnest(estimated) WITH ORDINALITY AS e (passages, term)
    ) r;

    WITH kept AS MATERIALIZED (
        SELECT w.* FROM search_by_words(
            p_user, sharer, p_conversation, p_ends, p_through, p_space,
            ARRAY(SELECT t.place FROM unnest(p_terms, rare) AS t (place, is_rare) WHERE t.is_rare), others,
            digits, p_elsewhere, p_collections, limit_worded
        ) w
    -- Most passages that hold some of the terms hold the same ones as many others.
    ), patterns AS (
        SELECT k.low_terms, k.high_terms, count(*) AS passages FROM kept k
        GROUP BY k.low_terms, k.high_terms
    ), holdings AS MATERIALIZED (
        SELECT p.low_terms, p.high_terms, p.passages, t.term,
               (CASE WHEN t.term < 16 THEN p.low_terms ELSE p.high_terms END >> (t.term % 16 * 3)) & 7 AS frequency
        FROM patterns p CROSS JOIN generate_series(0, cardinality(p_terms) - 1) AS t (term)
    ), frequencies AS MATERIALIZED (
        SELECT t.term, CASE WHEN rare[t.term + 1] AND others IS NULL AND (SELECT count(*) FROM kept) < limit_worded
                       THEN coalesce(h.passages, 0)
                       ELSE greatest(estimated[t.term + 1], h.passages) END AS passages
        FROM generate_series(0, cardinality(p_terms) - 1) AS t (term)
        LEFT JOIN (SELECT term, sum(passages) FILTER (WHERE frequency > 0) AS passages FROM holdings GROUP BY term) h
          ON h.term = t.term
    -- BM25, without the length, which the exact look adds.
    ), scores AS (
        SELECT h.low_terms, h.high_terms,
               sum(ln(1 + greatest(0.5, look.population - f.passages + 0.5) / (f.passages + 0.5))
                   * h.frequency / (h.frequency + 1.2::double precision)) AS score
        FROM holdings h JOIN frequencies f ON f.term = h.term
        WHERE h.frequency > 0
        GROUP BY h.low_terms, h.high_terms
    ), worded AS MATERIALIZED (
        SELECT k.*, s.score FROM scores s
        JOIN kept k ON k.low_terms = s.low_terms AND k.high_terms = s.high_terms
        ORDER BY s.score DESC, k.message_id DESC
        LIMIT p_near
    ), seeds AS (
        SELECT w.* FROM worded w ORDER BY w.score DESC, w.message_id DESC LIMIT most_seeds
    )
    SELECT ARRAY(SELECT w.message_id FROM worded w
                 UNION SELECT unnest(units_beside(p_user, sharer, array_agg(s.conversation_id), array_agg(s.branch),
                                                  array_agg(s.depth))) FROM seeds s),
           ARRAY(SELECT f.passages::integer FROM frequencies f ORDER BY f.term)
    INTO look.worded, look.document_frequency;
    RETURN look;
END
$function$;
