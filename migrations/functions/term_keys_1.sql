-- The terms that a passage holds, as the index of words has them: each by its owner, so that looking for a term finds
-- the passages of one user, and a user's terms stand side by side. Two owners of one hash are told apart by the rows.
--
-- Written rows call it one by one, and this language keeps its plan between the statements that write them.
CREATE FUNCTION term_keys(p_owner uuid, p_terms sparsevec) RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $function$
DECLARE
    owner bigint := uuid_hash(p_owner)::bigint << 32;
BEGIN
    -- The text form is {place:frequency,...}/length, and its places count from one.
    RETURN ARRAY(
        SELECT owner + split_part(held, ':', 1)::integer - 1
        FROM unnest(string_to_array(trim(BOTH '{}' FROM split_part(p_terms::text, '/', 1)), ',')) AS held
    );
END
$function$;
