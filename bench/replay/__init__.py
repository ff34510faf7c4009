"""How much of a long conversation is remembered: LoCoMo's conversations, replayed through the whole stack.

    uv run python -m bench.replay PATH_OR_URL [--conversation conv-26] [--model scripted|offline]
                                              [--endpoint URL --token TOKEN]

PATH_OR_URL is a `locomo10.json` (https://github.com/snap-research/LoCoMo, `data/locomo10.json`, CC BY-NC 4.0). It
starts what `chatrpc dev` starts, in a temporary directory, and says one conversation through Envoy on one `Chat`
stream, as one user. Then it asks the conversation's questions by `PreviewContext` and looks for the turns that LoCoMo
names as evidence. No language model is needed, since nothing is answered.

A conversation of chatrpc has one user; a dialogue of LoCoMo has two speakers. Every turn is sent as one message of the
user's, `Speaker: words`, with the caption of a shared image as LoCoMo's own evaluation adds it, and the date where a
session begins. The replies come from a scripted provider on loopback that says "OK." and writes summaries when it is
asked to (`--model scripted`), or from the offline model (`--model offline`). So half of the stored messages, and half
of the verbatim window, are replies that hold nothing.

Recall@k is LoCoMo's: the share of a question's evidence among the first k messages retrieved, replies included,
averaged over the questions that have evidence. Retrieval never repeats what stands verbatim in the window; that share
is a column of its own. The stack's model has a window of 65,536 tokens, so that the budget cuts no list of 50.
"""
