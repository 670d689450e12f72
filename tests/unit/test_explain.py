"""Reasons as sentences in both languages."""

import msgspec
import pytest

from config.policy import default_policy_text, parse_policy
from detectors.decision import Decision, Reason
from detectors.explain import Language, describe, explain
from detectors.policy import Text

POLICY = parse_policy(default_policy_text())
SIGN_UP = "account.seconds_since_signup"


@pytest.mark.parametrize(
    ("reason", "en", "zh"),
    [
        (
            Reason(code="same_minute_signup", kind="rule", value=12.0, limit=60.0, shown={SIGN_UP: 12.0}),
            "Points moved 12 s after sign-up (scripts act within 60 s).",
            "积分变动距注册仅 12 秒（脚本通常在 60 秒内操作）。",
        ),
        (
            Reason(code="ip_shared", kind="rule", value=1_234.0, limit=3.0, shown={SIGN_UP: 7_300.0}),
            "1,234 accounts within 24 h at this IP address (suspicious from 3 on), this one 2 h old.",
            "24 小时内有 1,234 个账户使用过此 IP（达到 3 个即可疑），本账户注册仅 2 小时。",
        ),
        (
            Reason(
                code="redeem_after_takeover", kind="rule", limit=86_400.0, shown={"velocity.account.devices_7d": 2.0}
            ),
            (
                "Points leave after signs of a takeover: time since the last credential change unknown "
                "(suspicious within 24 h), "
                "devices within 7 days 2."
            ),
            "疑似盗号后转出积分：距凭证变更 未知（24 小时内即可疑），7 天内使用 2 台设备。",
        ),
        (
            Reason(code="model_loda", kind="model", value=0.993, limit=0.95),
            "Rarer than 99.3 % of this programme's events (LODA).",
            "比本计划 99.3 % 的事件更罕见（LODA 模型）。",
        ),
        (
            Reason(code="rule_error", kind="policy", about="device_shared"),
            "Rule device_shared could not be evaluated.",
            "规则 device_shared 无法计算。",
        ),
        (
            Reason(code="insufficient_balance", kind="ledger", value=2.5),
            "The balance is too low for 2.50 points.",
            "余额不足以支付 2.50 积分。",
        ),
        (Reason(code="of_an_older_policy", kind="rule"), "of_an_older_policy", "of_an_older_policy"),
    ],
)
def test_a_reason_reads_well(reason: Reason, en: str, zh: str) -> None:
    """Value, limit and named values stand in the sentence, in units a person reads; what is unknown says so."""
    assert (explain(reason, POLICY, "en"), explain(reason, POLICY, "zh")) == (en, zh)


def test_a_rule_called_like_another_reason_speaks_for_itself_only() -> None:
    """What the ledger says keeps its own text beside a rule of the same name."""
    rule = msgspec.structs.replace(POLICY.rules[0], id="insufficient_balance", reason=Text(en="Mine.", zh="我的。"))
    policy = msgspec.structs.replace(POLICY, rules=(rule,))
    said = [explain(Reason(code=rule.id, kind=kind, value=3.0), policy, "en") for kind in ("shadow", "ledger")]
    assert said == ["Mine.", "The balance is too low for 3 points."]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_every_default_rule_has_both_languages(lang: Language) -> None:
    """No placeholder is left over in any text of the default policy."""
    for rule in POLICY.rules:
        shown: dict[str, float | None] = dict.fromkeys(rule.shows, 3.0)
        text = explain(Reason(code=rule.id, kind="rule", value=3.0, limit=rule.limit, shown=shown), POLICY, lang)
        assert "{" not in text
        assert any("一" <= character <= "鿿" for character in text) == (lang == "zh")


def test_an_allow_list_sets_no_floor() -> None:
    """Where it has nothing to take back it adds nothing, and a block-list beside it would set one."""
    reasons = (Reason(code="list_allow", kind="list", value=3.0), Reason(code="list_final", kind="list", value=4.0))
    decision = Decision(
        outcome="reject", score=0.1, reasons=reasons, suspicious=False, policy_version=1, model_version=None
    )
    assert [line.split()[0] for line in describe(decision, POLICY, "en")[1:]] == ["+0.00", "floor"]


def test_a_decision_in_words() -> None:
    """Verdict and versions first, then each reason with what it added, then what had no effect, in both languages."""
    policy = parse_policy(default_policy_text())
    rapid: dict[str, float | None] = {"velocity.account.count_1h": 14.0, "velocity.account.count_1m": 2.0}
    decision = Decision(
        outcome="hold",
        score=0.5498,
        reasons=(
            Reason(code="points_over_max", kind="policy", value=2e6, limit=1e6),
            Reason(code="rapid_repeat", kind="rule", contribution=3.2, value=14.0, limit=12.0, shown=rapid),
            Reason(code="list_allow", kind="list", contribution=-3.2, value=7.0),
            Reason(code="same_minute_signup", kind="shadow", value=5.0, limit=60.0),
        ),
        suspicious=False,
        policy_version=3,
        model_version=None,
    )
    known = {"account.times_usual_points": 2.04, "account.times_usual_day": 3.2}
    assert describe(decision, policy, "en", known) == (
        "Held: score 0.5498 (held from 0.5, rejected from 0.999), policy 3, model none.",
        "     floor  points_over_max: 2,000,000 points in one event (limit 1,000,000).",
        (
            "     +3.20  rapid_repeat: 14 earlier events of this account within 1 h (suspicious from 12 on), "
            "2 of them within 1 min (from 5 on)."
        ),
        "     -3.20  list_allow: On an allow-list (entry 7): what speaks against it is taken back, hard limits stay.",
        "  on trial  same_minute_signup: Points moved 5 s after sign-up (scripts act within 60 s).",
        "3.2 × this account's usual day, 2.0 × its usual points.",
    )
    said = describe(decision, policy, "zh", known)
    assert len(said) == 6
    assert said[0] == "冻结待审：风险分 0.5498（0.5 起冻结，0.999 起拒绝），策略版本 3，模型版本 无。"
    assert "试运行" in said[4]
    assert said[5] == "是该账户平日的 3.2 倍、平时单笔的 2.0 倍。"
