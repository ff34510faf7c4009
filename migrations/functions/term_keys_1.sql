-- The terms that a passage holds, as the index of words has them: each by its owner, so that looking for a term finds
-- the passages of one user, and a user's terms stand side by side. Two owners of one hash are told apart by the rows.
CREATE FUNCTION term_keys(p_owner uuid, p_terms sparsevec) RETURNS bigint[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $function$
    -- The text form is {place:frequency,...}/length, and its places count from one.
    SELECT coalesce(array_agg((uuid_hash(p_owner)::bigint << 32) + split_part(held, ':', 1)::integer - 1), '{}')
    FROM unnest(string_to_array(trim(BOTH '{}' FROM split_part(p_terms::text, '/', 1)), ',')) AS held
$function$;
