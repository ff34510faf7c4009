"""What of all that was said or stored enters a context: the retrieval policy.

Text becomes terms (`lexicon`), a search finds a pool (`chatrpc.db.search`), the pool is scored (`fusion`), and the best
are chosen (`choose`). `retriever` does one after the other.
"""

from chatrpc.context.retrieval.choose import SURE_COSINE, Chosen, Ranked, choose, shortlist
from chatrpc.context.retrieval.fusion import Scores, Weights, fuse
from chatrpc.context.retrieval.lexicon import query_terms, terms
from chatrpc.context.retrieval.moments import Span, spans
from chatrpc.context.retrieval.retriever import Found, Retriever

__all__ = [
    "SURE_COSINE",
    "Chosen",
    "Found",
    "Ranked",
    "Retriever",
    "Scores",
    "Span",
    "Weights",
    "choose",
    "fuse",
    "query_terms",
    "shortlist",
    "spans",
    "terms",
]
