-- Erases every version of a conversation's summary that covers a message, with the facts in it, and asks for new ones.
-- To be called in the transaction that erases the message; it takes the lock on the conversation that appends take.
--
-- A version covers the message where this lies on the path to its anchor. What stays of an erased version is its number,
-- which is never given to another text, and its place, which tells how far the summary had come. `erasures` fences off
-- the folds that are under way: they have read the message, and are thrown away.
--
-- The number of erased versions.
CREATE FUNCTION invalidate_summaries(p_user uuid, p_conversation uuid, p_message uuid) RETURNS integer
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $function$
DECLARE
    place record;
    erased integer;
BEGIN
    PERFORM set_config('chatrpc.user_id', p_user::text, true);

    PERFORM 1 FROM conversations c WHERE c.user_id = p_user AND c.id = p_conversation FOR NO KEY UPDATE;
    SELECT m.branch, m.depth INTO place FROM messages m
    WHERE m.user_id = p_user AND m.id = p_message AND m.conversation_id = p_conversation;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;

    UPDATE summaries s SET text = '', facts = '[]', tokens = 0, erased_at = now()
    WHERE s.user_id = p_user AND s.conversation_id = p_conversation AND s.erased_at IS NULL
      AND s.anchor_depth >= place.depth
      AND (s.anchor_branch = place.branch OR EXISTS (
          SELECT 1 FROM branches b
          WHERE b.user_id = p_user AND b.conversation_id = p_conversation AND b.branch = s.anchor_branch
            AND on_path(place.branch, place.depth, b.lineage)));
    GET DIAGNOSTICS erased = ROW_COUNT;

    UPDATE conversations c SET erasures = c.erasures + 1, revision = c.revision + 1
    WHERE c.user_id = p_user AND c.id = p_conversation;
    INSERT INTO memory_tasks AS t (user_id, conversation_id, due_at)
    VALUES (p_user, p_conversation, clock_timestamp())
    ON CONFLICT (user_id, conversation_id) DO UPDATE SET due_at = clock_timestamp(), fold_refusals = 0;
    RETURN erased;
END
$function$;
