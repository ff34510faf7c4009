"""Fits contexts into the budget of the model that answers, with the tokens counted as well as they can be."""

from __future__ import annotations

import asyncio

from tokenizers import Tokenizer

from chatrpc.context.budget import Fitted, Material, fit
from chatrpc.context.counting import ExactCounts
from chatrpc.models.profiles import ModelProfile
from chatrpc.tokens import estimate_tokens

# Counting or cutting 1,000 characters takes 0.02 to 1 ms; longer texts would hold up the event loop noticeably.
_LONG_TEXT = 20_000
# The upper estimate can be too low for noise and for some languages, by 0.6 at worst; so far it is safe all the same.
_SURE_SHARE = 1 / 2


class Fitting:
    """Counts with a model's tokenizer where one is at hand and it matters, else with the estimate stored with messages.

    A context that costs less than half of the budget by the estimate fits by any count. Only beyond that is the
    tokenizer asked, so a turn mostly costs nothing for it.
    """

    def __init__(self) -> None:
        self._counts: dict[Tokenizer, ExactCounts] = {}

    async def fit(self, profile: ModelProfile, material: Material) -> Fitted:
        """The context as `chatrpc.context.budget.fit` makes it, off the event loop where that takes long."""
        tokens = material.tokens + estimate_tokens(material.instruction)
        if profile.tokenizer is not None and tokens > profile.budget * _SURE_SHARE:
            counts = self._counts.setdefault(profile.tokenizer, ExactCounts(profile.tokenizer))
            return await asyncio.to_thread(_fit_exactly, profile.budget, material, counts)
        if tokens > profile.budget and material.longest > _LONG_TEXT:
            return await asyncio.to_thread(fit, profile.budget, material)
        return fit(profile.budget, material)


def _fit_exactly(budget: int, material: Material, counts: ExactCounts) -> Fitted:
    return fit(budget, counts.recounted(material), counts.text)
