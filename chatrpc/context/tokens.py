"""The token estimate under the name by which the context knows it.

The code stands in `chatrpc.tokens`, since the models, which lie below the context, count tokens too.
"""

from chatrpc.tokens import cut_to_tokens, estimate_tokens

__all__ = ["cut_to_tokens", "estimate_tokens"]
