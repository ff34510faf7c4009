"""How many facts of the first 20 turns a conversation of 600 turns still knows at its end.

    uv run python -m bench.facts [--turns 600] [--seeds 3] [--only SUMMARISER] [--json PATH]

In each of the first 20 turns a person mentions one fact beside other talk: names, preferences, decisions, details and
questions left open, four of each. Then come 580 turns of questions, chatter and stories, with names and numbers of
their own, in which another fact is mentioned every 30 turns. The turns are written to a database of their own, and
folded by the production code as they come. At the end, each fact is looked for by its telling words: in the summary
that a prompt would show, and, where it is not there, among the passages that a question about it retrieves.

The summaries are written by a scripted language model that follows the prompt: it reads the messages, the known facts
and the story out of it, answers in the form that is asked for, and knows nothing of what was planted. Then by three
that turn bad after the planted turns: one forgets (a story without what was before, and facts taken back), one is cut
off half-way, one bloats (stories and facts without end). And by the extractive summariser, without any model, with the
default embedder for the retrieval.

The extractive one's patterns were written with the sentences of `SENTENCES` in view, which are said with other words
each time; the sentences of `HELD_OUT` were written apart, and no pattern was changed for them. Bars: follows 100 % in
the summary; the adversaries refused or 100 %; extractive at least 70 % in summary or retrieval.
"""
