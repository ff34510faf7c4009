-- Appends batches of entries to several streams, in one call.
--
-- An entry's id is ATTEMPT-NUMBER, and numbers of an attempt run from 1 without gaps. What a stream has already is
-- passed over, so that a batch may be sent again. Answers one word a stream:
--   ok     the stream holds the batch now;
--   gap    it lacks entries before the batch, since Redis has lost them: send again from 1;
--   stale  it holds a higher attempt: this one is over.
--
-- KEYS: the streams, each also the name of the channel on which it is announced.
-- ARGV: most entries of a stream; then for each stream attempt, first number, milliseconds to live, count, and the
--       entries.
local longest = ARGV[1]
local at = 2
local answers = {}
for i, key in ipairs(KEYS) do
    local attempt, first, life, count = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2], tonumber(ARGV[at + 3])
    at = at + 4
    local top = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
    local top_attempt, held = 0, 0
    if top then
        local a, n = string.match(top[1], '(%d+)-(%d+)')
        top_attempt, held = tonumber(a), tonumber(n)
    end
    if top_attempt > attempt then
        answers[i] = 'stale'
    else
        if top_attempt < attempt then
            held = 0
        end
        if first > held + 1 then
            answers[i] = 'gap'
        else
            for n = math.max(first, held + 1), first + count - 1 do
                redis.call('XADD', key, 'MAXLEN', '~', longest, attempt .. '-' .. n, 'e', ARGV[at + n - first])
            end
            if top and top_attempt < attempt then
                redis.call('XTRIM', key, 'MINID', attempt .. '-0')
            end
            redis.call('PEXPIRE', key, life)
            redis.call('PUBLISH', key, '')
            answers[i] = 'ok'
        end
    end
    at = at + count
end
return answers
