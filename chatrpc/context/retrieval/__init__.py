"""What of all that was said or stored enters a context: the retrieval policy."""

from chatrpc.context.retrieval.choose import SURE_COSINE, Chosen, candidates_for, choose

__all__ = ["SURE_COSINE", "Chosen", "candidates_for", "choose"]
