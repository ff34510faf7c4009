-- Lets other conversations retrieve from the active path of a remembered conversation alone, after its head has moved to
-- another branch. To be called in the transaction that moves it, whose lock keeps vectors from being added meanwhile.
CREATE FUNCTION mark_active(p_user uuid, p_conversation uuid) RETURNS void
LANGUAGE plpgsql
AS $function$
DECLARE
    path integer[];
BEGIN
    SELECT c.lineage || ARRAY[c.head_branch, c.head_depth] INTO path FROM conversations c
    WHERE c.user_id = p_user AND c.id = p_conversation AND c.memory = 'remembered';
    IF FOUND THEN
        UPDATE embeddings e SET active = on_path(e.branch, e.depth, path)
        WHERE e.user_id = p_user AND e.conversation_id = p_conversation
          AND e.active <> on_path(e.branch, e.depth, path);
    END IF;
END
$function$;
