"""The limits of a token: its own where its claim names them, else the settings'."""

from __future__ import annotations

import json
import math

import pytest

from chatrpc.domain import Quota, QuotaWindow
from chatrpc.rpc.quota_claim import quota_of
from chatrpc.settings import QuotaSettings

SETTINGS = QuotaSettings(window="day", tokens=1_000, turns=50, claim="plan")


@pytest.mark.parametrize(
    ("claims", "quota"),
    [
        ({}, Quota(QuotaWindow.DAY, 1_000, 50)),
        ({"plan": None}, Quota(QuotaWindow.DAY, 1_000, 50)),
        ({"chatrpc_quota": {"tokens": 1}}, Quota(QuotaWindow.DAY, 1_000, 50)),
        ({"plan": {}}, Quota(QuotaWindow.DAY, 1_000, 50)),
        ({"plan": {"tokens": 5, "name": "trial"}}, Quota(QuotaWindow.DAY, 5, 50)),
        ({"plan": {"tokens": None}}, Quota(QuotaWindow.DAY, None, 50)),
        ({"plan": {"turns": 0, "window": "hour"}}, Quota(QuotaWindow.HOUR, 1_000, 0)),
        ({"plan": '{"tokens": 9, "turns": null}'}, Quota(QuotaWindow.DAY, 9, None)),
    ],
)
def test_a_claim_goes_over_the_settings(claims: dict[str, object], quota: Quota) -> None:
    assert quota_of(SETTINGS, claims) == quota


@pytest.mark.parametrize("claim", ["", "[]", 1, True, [], {"window": ""}, {"window": True}, "null", "{"])
def test_a_malformed_claim_is_refused_rather_than_ignored(claim: object) -> None:
    with pytest.raises(ValueError, match="its plan claim must be an object"):
        quota_of(SETTINGS, {"plan": claim})


@pytest.mark.parametrize("name", ["tokens", "turns"])
@pytest.mark.parametrize(
    "limit", [True, False, 1.0, 1.5, 1e5, math.nan, math.inf, -1, 2**62, 2**70, "5", "", [], {}], ids=str
)
def test_a_limit_that_is_no_whole_number_is_refused(name: str, limit: object) -> None:
    for claim in ({name: limit}, json.dumps({name: limit})):
        with pytest.raises(ValueError, match="its plan claim must be an object"):
            quota_of(SETTINGS, {"plan": claim})
