-- Whether a message lies on the part of a path that `lineage` (branch, last depth, branch, last depth, ...) describes.
CREATE FUNCTION on_path(p_branch integer, p_depth integer, p_lineage integer[]) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT EXISTS (
        SELECT 1 FROM generate_series(1, coalesce(array_length(p_lineage, 1), 0), 2) AS i
        WHERE p_lineage[i] = p_branch AND p_depth <= p_lineage[i + 1]
    )
$function$;
