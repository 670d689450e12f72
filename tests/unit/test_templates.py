"""Ready rules: each compiles, is explained in both languages, and fires on the abuse it is for and not beside it."""

import re
from pathlib import Path

import numpy as np
import pytest

from config.policy import load_policy, parse_policy
from config.templates import Template, template_text, templates
from detectors.rules import EventFields, compile_rules

ALL = templates()
HEAD = """
version: 1
base: -3.0
thresholds: {hold: 0.5, reject: 0.999}
models: {}
cold_limit_points: 500
max_points: 1000000
holds: {earn: {}, redeem: {}, transfer: {}, adjust: {}}
rules:
"""
every = pytest.mark.parametrize("template", ALL, ids=lambda template: template.name)

ABUSE: dict[str, tuple[str, dict[str, float]]] = {
    "monthly_cap": ("earn", {"velocity.account.sum_30d": 29_500.0, "event.points": 501.0}),
    "dormant_then_burst": (
        "redeem",
        {
            "account.age_seconds": 8e6, "velocity.account.count_1h": 2.0, "velocity.account.count_24h": 2.0,
            "velocity.account.count_30d": 2.0,
        },
    ),
    "insider_staff": ("adjust", {"velocity.staff.count_24h": 10.0}),
    "insider_few_members": ("earn", {"velocity.staff.count_7d": 10.0, "velocity.staff.accounts_7d": 2.0}),
    "insider_till": ("earn", {"velocity.store.sum_1h": 49_000.0, "event.points": 1_001.0}),
    "campaign_burn": ("earn", {"velocity.campaign.sum_1h": 100_000.0, "event.points": 1.0}),
    "daily_cap": ("earn", {"velocity.account.sum_24h": 4_000.0, "event.points": 1_001.0}),
    "signups_per_device": ("earn", {"velocity.device.accounts_24h": 5.0, "account.seconds_since_signup": 60.0}),
    "signups_per_ip": ("redeem", {"velocity.ip.accounts_24h": 8.0, "account.seconds_since_signup": 60.0}),
    "same_minute_purchase": ("earn", {"account.seconds_since_signup": 60.0}),
    "redeem_after_credential_change": (
        "redeem", {"event.outflow": 1.0, "account.seconds_since_credential_change": 600.0},
    ),
    "just_under_limit": (
        "redeem",
        {"event.points": 80_000.0, "velocity.account.count_24h": 1.0, "velocity.account.sum_24h": 80_000.0},
    ),
    "earn_redeem_refund": ("reverse", {"velocity.account.count_24h": 3.0, "velocity.account.sum_24h": 1_000.0}),
    "fan_in": ("transfer", {"velocity.account.peers_24h": 5.0}),
    "night_regular": (
        "earn", {"event.hour": 3.0, "velocity.device.count_1h": 10.0, "velocity.device.count_1m": 1.0},
    ),
}  # fmt: skip
BESIDE: dict[str, dict[str, float]] = {
    "monthly_cap": {"event.points": 500.0},
    "dormant_then_burst": {"velocity.account.count_30d": 3.0},
    "insider_staff": {"event.outflow": 1.0},
    "insider_few_members": {"velocity.staff.accounts_7d": 3.0},
    "insider_till": {"event.points": 1_000.0},
    "campaign_burn": {"event.points": 0.0},
    "daily_cap": {"event.points": 1_000.0},
    "signups_per_device": {"account.seconds_since_signup": 86_401.0},
    "signups_per_ip": {"velocity.ip.accounts_24h": 7.0},
    "same_minute_purchase": {"account.seconds_since_signup": 61.0},
    "redeem_after_credential_change": {"event.outflow": 0.0},
    "just_under_limit": {"event.points": 100_000.0},
    "earn_redeem_refund": {"velocity.account.sum_24h": 999.0},
    "fan_in": {"velocity.account.peers_24h": 4.0},
    "night_regular": {"velocity.device.count_1m": 2.0},
}


def document(*names: str) -> str:
    """A policy of some templates, as an analyst would paste them."""
    rules = "".join(template_text(name) for name in names)
    return HEAD + "".join(f"  {line}\n" for line in rules.splitlines())


@every
def test_a_template_compiles(template: Template) -> None:
    """Pasted into a policy it is one rule, of its file's name, in shadow, with both languages."""
    policy = parse_policy(document(template.name))
    (rule,) = policy.rules
    assert (rule.id, rule.mode) == (template.name, "shadow")
    assert template.about != template.about_zh
    assert load_policy(document(template.name)).policy == policy


def test_what_the_abuses_are() -> None:
    """The list of templates is that of the guide."""
    guide = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")
    assert [template.name for template in ALL if f"`{template.name}`" not in guide] == []
    with pytest.raises(KeyError):
        template_text("nothing")


def test_every_template_is_tried() -> None:
    """No ready rule is without its abuse."""
    assert set(ABUSE) == set(BESIDE) == {template.name for template in ALL}


@pytest.mark.parametrize("name", sorted(ABUSE))
def test_a_template_fires_on_its_abuse_and_not_beside_it(name: str) -> None:
    """At its limits it fires; with one sign missing it does not, nor on an ordinary event."""
    rule_set, problems = compile_rules(load_policy(document(name)).policy.rules)
    assert problems == []
    kind, signs = ABUSE[name]
    numbers = np.zeros((3, len(rule_set.columns)))
    numbers[:, rule_set.columns["account.seconds_since_signup"]] = 1e8
    numbers[:, rule_set.columns["account.seconds_since_credential_change"]] = np.nan
    for row, values in ((0, signs), (1, signs | BESIDE[name])):
        for feature, value in values.items():
            numbers[row, rule_set.columns[feature]] = value
    fired = rule_set.evaluate([EventFields(type=kind, program="p")] * 3, numbers)
    assert [one.rules for one in fired] == [(0,), (), ()]


def test_all_templates_together_keep_their_ids_apart() -> None:
    """Nobody pastes two rules of one name."""
    ids = re.findall(r"- id: (\w+)", document(*(template.name for template in ALL)))
    assert sorted(ids) == sorted({template.name for template in ALL})
