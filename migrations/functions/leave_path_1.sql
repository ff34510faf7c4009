-- Has the next append to a conversation begin a branch at the root, as the edit of the first message does. To be called
-- in the transaction that appends, and rolled back with it where the message is not accepted. Where nothing has been
-- said yet, there is no path to leave.
CREATE FUNCTION leave_path(p_user uuid, p_conversation uuid) RETURNS void
LANGUAGE plpgsql
AS $function$
DECLARE
    new_branch integer;
BEGIN
    PERFORM set_config('chatrpc.user_id', p_user::text, true);
    PERFORM 1 FROM conversations c WHERE c.user_id = p_user AND c.id = p_conversation FOR NO KEY UPDATE;
    UPDATE conversations c SET
        head_id = NULL, head_branch = c.last_branch + 1, head_depth = 0, lineage = '{}', last_branch = c.last_branch + 1
    WHERE c.user_id = p_user AND c.id = p_conversation AND c.head_id IS NOT NULL
    RETURNING c.head_branch INTO new_branch;
    IF FOUND THEN
        INSERT INTO branches (user_id, conversation_id, branch, lineage)
        VALUES (p_user, p_conversation, new_branch, '{}');
        PERFORM mark_active(p_user, p_conversation);
    END IF;
END
$function$;
