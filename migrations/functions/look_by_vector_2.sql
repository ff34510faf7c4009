-- Which units among many passages are worth an exact look: to those that look_by_words has found come those near by
-- meaning, and the units beside the nearest.
--
-- Near are those that an index of the owner's own gives, unless the scope is narrow; else those whose signs differ least
-- from the query's, by one pass over what the primary key of embeddings includes. What is said of all cosines is
-- estimated from the sample. It is a part of search_units, whose planner settings hold here too.
CREATE FUNCTION look_by_vector(
    p_user uuid, p_shared uuid, p_conversation uuid, p_ends integer[], p_through integer,
    p_vector halfvec, p_space smallint, p_elsewhere boolean, p_collections uuid[], p_exact_to integer,
    p_indexed boolean, p_near integer, p_look search_look,
    OUT tier text, OUT chosen uuid[], OUT dense_mean double precision, OUT dense_std double precision
)
LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
DECLARE
    -- The nearest, so many, whose neighbours are looked at too.
    most_seeds constant integer := 32;
    -- A distance that none exceeds: one comparison for each passage, where null would take another one.
    everything constant double precision := 'infinity';
    signs bit varying := binary_quantize(p_vector);
    farthest double precision;
    near uuid[];
    near_containers uuid[];
    near_branches integer[];
    near_depths integer[];
BEGIN
    WITH sampled AS MATERIALIZED (
        SELECT CASE WHEN e.user_id = p_user THEN p_look.own_weight ELSE p_look.shared_weight END AS weight,
               e.code <~> signs AS distance, -(e.embedding <#> p_vector) AS cosine
        FROM unnest(p_look.sampled, p_look.sampled_passages) AS d (unit, passage)
        -- By itself for each, since the planner might else read all passages.
        CROSS JOIN LATERAL (
            SELECT e.user_id, e.code, e.embedding FROM embeddings e
            WHERE e.user_id = ANY (ARRAY[p_user, p_shared]) AND e.space_id = p_space
              AND e.message_id = d.unit AND e.passage = d.passage
            OFFSET 0
        ) e
    )
    SELECT coalesce(sum(s.weight * s.cosine) / sum(s.weight), 0),
           coalesce(sqrt(greatest(0, sum(s.weight * s.cosine ^ 2) / sum(s.weight)
                                     - (sum(s.weight * s.cosine) / sum(s.weight)) ^ 2)), 0),
           -- Three times as many as are wanted, or the eighth nearest of the sample, below which chance rules.
           coalesce(CASE WHEN p_look.passages > 4 * p_near THEN
               (array_agg(s.distance ORDER BY s.distance))[greatest(8, ceil(count(*) * 3 * p_near / p_look.passages))] END,
               everything)
    INTO dense_mean, dense_std, farthest
    FROM sampled s;

    IF p_indexed AND p_look.wide THEN
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
                  AND e.code <~> signs <= farthest
                OFFSET 0
            ) e
            WHERE in_scope(e.user_id, e.source, e.collection_id, e.conversation_id, e.branch, e.depth, e.active,
                           p_user, p_conversation, p_through, p_ends, p_elsewhere, p_collections)
            ORDER BY e.distance
            LIMIT p_near
        ) n;
        EXIT WHEN farthest = everything;
        farthest := everything;
    END LOOP;

    chosen := ARRAY(
        SELECT unnest(near) UNION SELECT unnest(p_look.worded)
        UNION SELECT unnest(units_beside(p_user, p_shared, near_containers[:most_seeds], near_branches[:most_seeds],
                                         near_depths[:most_seeds]))
    );
END
$function$;
