-- Makes a path through a message the active one: the path to the newest message at or below it. Appends go on there, and
-- contexts, summaries and searches see that path alone. Replies that run on other paths run on.
--
-- `conversation` is null where there is no such message.
CREATE FUNCTION switch_branch(p_user uuid, p_message uuid, OUT conversation uuid)
LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
DECLARE
    through record;
    tip record;
BEGIN
    PERFORM set_config('chatrpc.user_id', p_user::text, true);
    SELECT m.conversation_id, m.branch, m.depth INTO through FROM messages m
    WHERE m.user_id = p_user AND m.id = p_message;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT c.id INTO conversation FROM conversations c
    WHERE c.user_id = p_user AND c.id = through.conversation_id
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    -- The newest message of all is the last one of its branch.
    SELECT m.id, m.branch, m.depth, place.lineage INTO tip
    FROM (
        SELECT through.branch AS branch, coalesce((
            SELECT b.lineage FROM branches b
            WHERE b.user_id = p_user AND b.conversation_id = through.conversation_id AND b.branch = through.branch
        ), '{}') AS lineage
        UNION ALL
        SELECT b.branch, b.lineage FROM branches b
        WHERE b.user_id = p_user AND b.conversation_id = through.conversation_id
          AND on_path(through.branch, through.depth, b.lineage)) place
    CROSS JOIN LATERAL (
        SELECT last.id, last.branch, last.depth, last.sequence FROM messages last
        WHERE last.user_id = p_user AND last.conversation_id = through.conversation_id AND last.branch = place.branch
        ORDER BY last.depth DESC
        LIMIT 1) m
    ORDER BY m.sequence DESC
    LIMIT 1;

    UPDATE conversations c SET
        revision = c.revision + 1, head_id = tip.id, head_branch = tip.branch, head_depth = tip.depth,
        lineage = tip.lineage, updated_at = now()
    WHERE c.user_id = p_user AND c.id = conversation AND c.head_id <> tip.id;
    IF FOUND THEN
        PERFORM mark_active(p_user, conversation);
    END IF;
END
$function$;
