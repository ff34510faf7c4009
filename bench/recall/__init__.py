"""How much of what answers a question retrieval finds: `python -m bench.recall LOCOMO.json` or `--dataset OWN.jsonl`.

Each question is searched for among all messages of its user, by the very policy of the server. Recall@k is the share of
a question's evidence among the first k messages that a context would be given, averaged over questions; whatever is
given counts. Beside it, the same figures of the LoCoMo paper's best retriever and of BM25, and what each ingredient of
the policy adds. LoCoMo's conversations that the policy was tuned on are reported apart from those it never saw.

`--errata` takes the corrected keys (`errors.json` of github.com/dial481/locomo-audit). The JSONL format of `--dataset`
is described in docs/recall.md.
"""
