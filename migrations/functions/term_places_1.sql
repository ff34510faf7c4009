-- The places of the terms that a passage holds, as an index of one user's terms has them.
CREATE FUNCTION term_places(p_terms sparsevec) RETURNS integer[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $function$
    -- The text form is {place:frequency,...}/length, and its places count from one.
    SELECT coalesce(array_agg(split_part(held, ':', 1)::integer - 1), '{}')
    FROM unnest(string_to_array(trim(BOTH '{}' FROM split_part(p_terms::text, '/', 1)), ',')) AS held
$function$;
