"""What share of the bytes of prompts a provider's prompt cache would serve over a long conversation.

    uv run python -m bench.prefix [--turns 500] [--keep K] [--fold B] [--hits N] [--hits-tokens N] [--sweep]

A user and a scripted assistant talk for 500 turns, on a database of their own, through the production code: append,
search, assembly, budget, and after each turn the vectors (the default embedder) and the summary (the extractive
summariser). Each prompt is written as the request to an OpenAI-compatible endpoint writes its messages, and compared
with the one of the turn before, byte by byte from the start. The equal bytes are what a cache could serve:

- to the byte, the bound of any cache;
- in blocks of 16 tokens, as vLLM keeps them;
- as OpenAI does: nothing below 1,024 tokens, then in steps of 128.

A token is taken as four bytes. Two lengths of messages: those of LMSYS-Chat-1M (mean 69.5 tokens a prompt and 214.5 a
response, table 1 of arXiv:2309.11998) and of WildChat (295.6 and 441.3, table 2 of arXiv:2405.01470), log-normal around
these means with a sigma of 1, cut at 16 times the mean. The subject changes every few turns and comes back later, so
that there is something to retrieve. Tokens are the bytes' quarter; "full price" is what is not served to the byte, and
"paid at a tenth" adds a tenth of what is served, the price of several providers.

The windows are the default for unknown models, that of a large hosted model, and a small one, where the budget has to
leave messages out in almost every turn. Bar: 80 % to the byte with the given settings, in the first two.
"""
