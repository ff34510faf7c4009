-- The vectors whose products with a passage's terms tell how often it holds each of the given terms, eight a vector: the
-- place of the i-th of them holds 8^i, so that the product's octal digits are the frequencies, since none is above
-- seven. In their text form places count from one. Single precision, in which products are added up, holds all 24 bits of it.
CREATE FUNCTION term_digits(p_terms integer[]) RETURNS sparsevec[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT coalesce(array_agg(v.vector ORDER BY v.number), '{}')
    FROM (
        SELECT (t.place - 1) / 8 AS number,
               ('{' || string_agg(t.term + 1 || ':' || (8 ^ ((t.place - 1) % 8))::integer, ',') || '}/1000000000')::sparsevec
               AS vector
        -- Two terms of one hash are taken for the first.
        FROM (SELECT u.term, min(u.place) AS place
              FROM unnest(p_terms) WITH ORDINALITY AS u (term, place) GROUP BY u.term) t
        GROUP BY 1
    ) v
$function$;
