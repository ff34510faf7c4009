-- Begins a conversation with copies of the path to a message: p_conversation, unless an earlier call with the same
-- request id has begun one.
--
-- Rows are copied, so that each conversation can be erased without the other. The copies stand on one branch, whatever
-- the path was, with numbers and ids of their own; whatever names a message names its copy. They bear no client's key.
-- Their vectors are copied as far as they are made, and the background work makes the rest. So are all versions of the
-- summary that cover a part of the path: an edit or a regenerated reply in the fork falls back to the one that serves it.
--
-- The source is locked against changes meanwhile, so that all is copied of one moment.
--
-- The first turn reserves for what came along: what the source's last prompt came to, or the copies if they are less.
CREATE FUNCTION fork_conversation(
    p_user uuid, p_message uuid, p_conversation uuid, p_request_id text, p_request_hash bytea, p_most integer,
    OUT outcome text, OUT conversation uuid, OUT unfinished uuid
)
LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
DECLARE
    earlier record;
    last record;
    source conversations;
    path integer[];
    new_title text;
    embedded bigint;
    copies uuid[];
BEGIN
    PERFORM set_config('chatrpc.user_id', p_user::text, true);
    SELECT c.id, c.request_hash INTO earlier FROM conversations c
    WHERE c.user_id = p_user AND c.request_id = p_request_id;
    IF FOUND THEN
        -- The erasure of a title takes the hash along.
        outcome := CASE WHEN coalesce(earlier.request_hash = p_request_hash, true) THEN 'duplicate' ELSE 'reused' END;
        conversation := earlier.id;
        RETURN;
    END IF;

    SELECT m.conversation_id, m.branch, m.depth INTO last FROM messages m
    WHERE m.user_id = p_user AND m.id = p_message;
    IF FOUND THEN
        SELECT * INTO source FROM conversations c
        WHERE c.user_id = p_user AND c.id = last.conversation_id
        FOR SHARE;
    END IF;
    IF NOT FOUND THEN
        outcome := 'no_message';
        RETURN;
    ELSIF last.depth > p_most THEN
        outcome := 'too_long';
        RETURN;
    END IF;
    SELECT b.lineage INTO path FROM branches b
    WHERE b.user_id = p_user AND b.conversation_id = source.id AND b.branch = last.branch;
    path := coalesce(path, '{}') || ARRAY[last.branch, last.depth];
    SELECT m.id INTO unfinished FROM messages m
    WHERE m.user_id = p_user AND m.conversation_id = source.id AND m.state = 'pending'
      AND on_path(m.branch, m.depth, path)
    ORDER BY m.depth
    LIMIT 1;
    IF FOUND THEN
        outcome := 'unfinished';
        RETURN;
    END IF;

    -- A title that is the beginning of a message stands and falls with it, and this one may not come along.
    new_title := source.title;
    IF new_title <> '' AND last.depth < source.last_sequence AND (
        SELECT count(*) > 0 AND NOT coalesce(bool_or(on_path(m.branch, m.depth, path)), false) FROM messages m
        WHERE m.user_id = p_user AND m.conversation_id = source.id AND starts_with(
            btrim((SELECT string_agg(part->>'text', '') FROM jsonb_array_elements(m.parts) AS part)),
            btrim(new_title)))
    THEN
        new_title := '';
    END IF;
    INSERT INTO conversations (user_id, id, title, settings, labels, request_id, request_hash, memory,
                               head_depth, last_sequence)
    VALUES (p_user, p_conversation, new_title, source.settings, source.labels, p_request_id, p_request_hash,
            source.memory, last.depth, last.depth)
    ON CONFLICT (user_id, request_id) WHERE request_id IS NOT NULL DO NOTHING;
    IF NOT FOUND THEN
        SELECT c.id, c.request_hash INTO earlier FROM conversations c
        WHERE c.user_id = p_user AND c.request_id = p_request_id;
        -- The erasure of a title takes the hash along.
        outcome := CASE WHEN coalesce(earlier.request_hash = p_request_hash, true) THEN 'duplicate' ELSE 'reused' END;
        conversation := earlier.id;
        RETURN;
    END IF;

    SELECT least(t.embedded_sequence, t.finished_after) INTO embedded FROM memory_tasks t
    WHERE t.user_id = p_user AND t.conversation_id = source.id;
    WITH segments AS (
        SELECT path[i] AS branch, path[i + 1] AS last_depth FROM generate_series(1, cardinality(path), 2) AS i
    ), originals AS MATERIALIZED (
        SELECT m.*, new_id() AS copy_id
        FROM segments s
        JOIN messages m ON m.user_id = p_user AND m.conversation_id = source.id
                       AND m.branch = s.branch AND m.depth <= s.last_depth
    ), copied AS (
        INSERT INTO messages (user_id, conversation_id, branch, depth, id, parent_id, sequence, role, state, parts,
                              tokens, turn_settings, actor, attempt, model, finish_reason, error_reason, delta_ends,
                              created_at, finished_at)
        SELECT p_user, p_conversation, 0, o.depth, o.copy_id, lag(o.copy_id) OVER (ORDER BY o.depth), o.depth, o.role,
               o.state, o.parts, o.tokens, o.turn_settings, o.actor, least(o.attempt, 1), o.model, o.finish_reason,
               o.error_reason, o.delta_ends, o.created_at, o.finished_at
        FROM originals o
    ), vectors AS (
        INSERT INTO embeddings (user_id, space_id, message_id, passage, conversation_id, branch, depth, active,
                                created_at, span_start, span_end, length, embedding, terms)
        SELECT p_user, e.space_id, o.copy_id, e.passage, p_conversation, 0, o.depth, source.memory = 'remembered',
               e.created_at, e.span_start, e.span_end, e.length, e.embedding, e.terms
        FROM originals o
        JOIN embeddings e ON e.user_id = p_user AND e.conversation_id = source.id
                         AND e.branch = o.branch AND e.depth = o.depth
    )
    INSERT INTO memory_tasks (user_id, conversation_id, due_at, embedded_sequence)
    SELECT p_user, p_conversation, now(), coalesce(max(o.depth) FILTER (WHERE o.sequence <= embedded), 0)
    FROM originals o;
    -- What stands on the path is known by its depth alone.
    copies := ARRAY(
        SELECT m.id FROM messages m
        WHERE m.user_id = p_user AND m.conversation_id = p_conversation AND m.branch = 0
        ORDER BY m.depth);
    INSERT INTO summaries (user_id, conversation_id, version, previous_version, anchor_id, anchor_branch, anchor_depth,
                           text, tokens, model, created_at, facts)
    SELECT p_user, p_conversation, s.version, s.previous_version, copies[s.anchor_depth], 0, s.anchor_depth, s.text,
           s.tokens, s.model, s.created_at, coalesce((
               SELECT jsonb_agg(fact || jsonb_build_object(
                   'source_id', copies[told], 'source_sequence', told,
                   'changed_id', copies[changed], 'changed_sequence', changed) ORDER BY place)
               FROM (
                   SELECT fact, place, (
                       SELECT m.depth FROM messages m WHERE m.user_id = p_user AND m.id = (fact->>'source_id')::uuid
                   ) AS told, (
                       SELECT m.depth FROM messages m WHERE m.user_id = p_user AND m.id = (fact->>'changed_id')::uuid
                   ) AS changed
                   FROM jsonb_array_elements(s.facts) WITH ORDINALITY AS facts (fact, place)
                   OFFSET 0) placed), '[]')
    FROM summaries s
    WHERE s.user_id = p_user AND s.conversation_id = source.id AND s.erased_at IS NULL
      AND on_path(s.anchor_branch, s.anchor_depth, path);
    UPDATE conversations c SET
        head_id = copies[last.depth],
        context_tokens = least(source.context_tokens, (
            SELECT sum(m.tokens) FROM messages m
            WHERE m.user_id = p_user AND m.conversation_id = p_conversation))
    WHERE c.user_id = p_user AND c.id = p_conversation;
    outcome := 'forked';
    conversation := p_conversation;
END
$function$;
