-- The first look at many passages: which units are worth an exact look, and what can be said of all in scope.
--
-- Near by meaning are those that an index of the owner's own gives, unless the scope is narrow; else those whose signs
-- differ least from the query's, by one pass over what the primary key of embeddings includes. By words they are those
-- that hold the query's rarest terms, by the index of words.
--
-- A sample tells which terms are rare. What is said of all is estimated from it, but for how many passages hold each of
-- the rare terms, which are all found. `p_shared` is the user again where nobody shares anything. It is a part of
-- search_pool, whose planner settings hold here too.
CREATE FUNCTION search_coarsely(
    p_user uuid, p_shared uuid, p_conversation uuid, p_ends integer[], p_through integer,
    p_vector halfvec, p_space smallint, p_terms integer[], p_digits sparsevec[],
    p_elsewhere boolean, p_collections uuid[], p_exact_to integer, p_indexed boolean, p_near integer,
    OUT tier text, OUT chosen uuid[], OUT population bigint, OUT mean_length double precision,
    OUT dense_mean double precision, OUT dense_std double precision, OUT document_frequency integer[]
)
LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
DECLARE
    slices constant integer := 8;
    slice_size constant integer := 16;
    -- The nearest and the best by words, each so many, whose neighbours are looked at too.
    seeds constant integer := 32;
    -- Passages that are looked at for their words, about so many: those of the query's rarest terms. Where the rarest
    -- alone is in more, those that hold another one too. The estimates may be far off, so there is a limit.
    most_worded constant integer := 3 * p_near;
    limit_worded constant integer := 2 * most_worded;
    signs bit varying := binary_quantize(p_vector);
    estimated double precision[];
    rare boolean[];
    others integer[];
    wide boolean;
    farthest double precision;
    near uuid[];
    near_containers uuid[];
    near_branches integer[];
    near_depths integer[];
BEGIN
    -- Slices of the order of ids, which is mostly that of time; of each owner, since their sizes differ.
    --
    -- Conditions on the owner name the parameters, and in this form: by others the executor does not see from the
    -- beginning which partitions it needs, and opens all.
    WITH ends AS MATERIALIZED (
        SELECT o.id AS owner, c.passages,
               replace((SELECT e.message_id FROM embeddings e
                        WHERE e.user_id = o.id AND e.user_id = ANY (ARRAY[p_user, p_shared]) AND e.space_id = p_space
                        ORDER BY e.message_id LIMIT 1)::text, '-', '') AS low,
               replace((SELECT e.message_id FROM embeddings e
                        WHERE e.user_id = o.id AND e.user_id = ANY (ARRAY[p_user, p_shared]) AND e.space_id = p_space
                        ORDER BY e.message_id DESC LIMIT 1)::text, '-', '') AS high
        FROM (SELECT DISTINCT unnest(ARRAY[p_user, p_shared])) AS o (id)
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
                   e.passage, e.length, e.code <~> signs AS distance, -(e.embedding <#> p_vector) AS cosine,
                   (-(e.terms <#> p_digits[1]))::integer AS holds_1, (-(e.terms <#> p_digits[2]))::integer AS holds_2,
                   (-(e.terms <#> p_digits[3]))::integer AS holds_3, (-(e.terms <#> p_digits[4]))::integer AS holds_4
            FROM embeddings e
            WHERE e.user_id = r.owner AND e.user_id = ANY (ARRAY[p_user, p_shared]) AND e.space_id = p_space
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
           coalesce(sum(w.weight * w.cosine) / sum(w.weight), 0),
           coalesce(sqrt(greatest(0, sum(w.weight * w.cosine ^ 2) / sum(w.weight)
                                     - (sum(w.weight * w.cosine) / sum(w.weight)) ^ 2)), 0),
           -- Three times as many as are wanted, or the eighth nearest of the sample, below which chance rules.
           CASE WHEN sum(w.weight) > 4 * p_near THEN
               (array_agg(w.distance ORDER BY w.distance))[greatest(8, ceil(count(*) * 3 * p_near / sum(w.weight)))] END,
           sum(w.weight) > 0.2 * (SELECT sum(passages) FROM ranges),
           ARRAY(SELECT coalesce(h.passages, 0) FROM generate_series(0, cardinality(p_terms) - 1) AS t (term)
                 LEFT JOIN holders h ON h.term = t.term ORDER BY t.term)
    INTO population, mean_length, dense_mean, dense_std, farthest, wide, estimated
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

    IF p_indexed AND wide THEN
        tier := 'indexed';
        SELECT array_agg(n.message_id), array_agg(n.conversation_id), array_agg(n.branch), array_agg(n.depth)
        INTO near, near_containers, near_branches, near_depths
        FROM (
            SELECT * FROM search_by_vectors(
                p_user, p_shared, p_conversation, p_ends, p_through, p_vector, p_space, p_elsewhere, p_collections,
                p_exact_to, p_near
            ) v
            ORDER BY v.distance
            LIMIT p_near
        ) n;
    END IF;
    -- An index that gives less may have missed what is in scope. Of a pass few passages are kept, since sorting them all
    -- would take longer than the pass itself; where the sample was mistaken about how far away the near ones may be, a
    -- second pass keeps all.
    WHILE coalesce(cardinality(near), 0) < p_near LOOP
        tier := 'two_stage';
        SELECT array_agg(n.message_id), array_agg(n.conversation_id), array_agg(n.branch), array_agg(n.depth)
        INTO near, near_containers, near_branches, near_depths
        FROM (
            -- What is far is passed over first, since to tell the scope costs more, and few are near.
            SELECT e.message_id, e.conversation_id, e.branch, e.depth
            FROM (
                SELECT e.user_id, e.message_id, e.source, e.collection_id, e.conversation_id, e.branch, e.depth, e.active,
                       e.code <~> signs AS distance
                FROM embeddings e
                WHERE e.user_id = ANY (ARRAY[p_user, p_shared]) AND e.space_id = p_space
                  AND (farthest IS NULL OR e.code <~> signs <= farthest)
                OFFSET 0
            ) e
            WHERE in_scope(e.user_id, e.source, e.collection_id, e.conversation_id, e.branch, e.depth, e.active,
                           p_user, p_conversation, p_through, p_ends, p_elsewhere, p_collections)
            ORDER BY e.distance
            LIMIT p_near
        ) n;
        EXIT WHEN farthest IS NULL;
        farthest := NULL;
    END LOOP;

    WITH kept AS MATERIALIZED (
        SELECT w.* FROM search_by_words(
            p_user, p_shared, p_conversation, p_ends, p_through, p_space,
            ARRAY(SELECT t.place FROM unnest(p_terms, rare) AS t (place, is_rare) WHERE t.is_rare), others,
            p_digits, p_elsewhere, p_collections, limit_worded
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
               sum(ln(1 + greatest(0.5, population - f.passages + 0.5) / (f.passages + 0.5))
                   * h.frequency / (h.frequency + 1.2::double precision)) AS score
        FROM holdings h JOIN frequencies f ON f.term = h.term
        WHERE h.frequency > 0
        GROUP BY h.low_terms, h.high_terms
    ), worded AS MATERIALIZED (
        SELECT k.*, s.score FROM scores s
        JOIN kept k ON k.low_terms = s.low_terms AND k.high_terms = s.high_terms
        ORDER BY s.score DESC, k.message_id DESC
        LIMIT p_near
    ), beside AS (
        SELECT n.message_id
        -- Only embeddings_place_idx finds them in a step each; by the primary key every seed would take a pass over
        -- all passages of its owner. The planner, which knows how many passages a user has on average, must never
        -- think that as cheap. So the owner is named once, since of two conditions it would expect the product of
        -- their shares (which of the owners it is, conversation_id says), and a column that the primary key does not
        -- include, and that is never negative, rules out an index-only scan of it.
        --
        -- Arithmetic is no part of the condition, since row-level security keeps it out of an index's conditions.
        FROM (
            SELECT s.*, s.depth - 2 AS first, s.depth + 2 AS last FROM (
                SELECT * FROM unnest(near_containers[:seeds], near_branches[:seeds], near_depths[:seeds])
                       AS n (conversation_id, branch, depth)
                UNION
                (SELECT conversation_id, branch, depth FROM worded ORDER BY score DESC, message_id DESC LIMIT seeds)
            ) s
            OFFSET 0
        ) s
        JOIN embeddings n ON n.user_id = ANY (ARRAY[p_user, p_shared]) AND n.conversation_id = s.conversation_id
         AND n.branch = s.branch AND n.depth >= s.first AND n.depth <= s.last AND n.span_start >= 0
    )
    SELECT ARRAY(SELECT unnest(near) UNION SELECT message_id FROM worded UNION SELECT message_id FROM beside),
           ARRAY(SELECT f.passages::integer FROM frequencies f ORDER BY f.term)
    INTO chosen, document_frequency;
END
$function$;
