-- Keeps the number of each user's passages, whoever adds or removes them. A statement's rows are nearly always one
-- user's, so the row of the number is locked last and shortly.
CREATE FUNCTION count_embeddings() RETURNS trigger
LANGUAGE plpgsql
AS $function$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO embedding_counts AS c (user_id, space_id, passages)
        SELECT n.user_id, n.space_id, count(*) FROM changed n GROUP BY n.user_id, n.space_id ORDER BY 1, 2
        ON CONFLICT (user_id, space_id) DO UPDATE SET passages = c.passages + excluded.passages;
    ELSE
        UPDATE embedding_counts c SET passages = c.passages - o.passages
        FROM (SELECT user_id, space_id, count(*) AS passages FROM changed GROUP BY user_id, space_id) o
        WHERE c.user_id = o.user_id AND c.space_id = o.space_id;
        DELETE FROM embedding_counts c USING changed o
        WHERE c.user_id = o.user_id AND c.space_id = o.space_id AND c.passages <= 0;
    END IF;
    RETURN NULL;
END
$function$;
