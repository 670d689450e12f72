"""A decision in words, in English and Simplified Chinese: the one place where reasons become text."""

import math
from collections.abc import Mapping
from typing import Literal

from detectors.aside import EFFECTLESS
from detectors.decision import (
    LIST_ALLOW,
    LIST_BLOCK,
    LIST_FINAL,
    LIST_WATCH,
    POINTS_OVER_MAX,
    RULE_ERROR,
    VELOCITY_COLD,
    Decision,
    Reason,
)
from detectors.layout import NORM
from detectors.policy import PLACEHOLDER, Policy, Text

Language = Literal["en", "zh"]

_TEXTS: dict[str, Text] = {
    "model_hst": Text(
        en="Rarer than {value|percent} of this programme's events (half-space trees).",
        zh="比本计划 {value|percent} 的事件更罕见（半空间树模型）。",
    ),
    "model_isolation": Text(
        en="Rarer than {value|percent} of this programme's events, by a long memory (isolation forest).",
        zh="以长期记忆看，比本计划 {value|percent} 的事件更罕见（孤立森林模型）。",
    ),
    "model_tails": Text(
        en="Further out in single values than {value|percent} of this programme's events (tails).",
        zh="个别数值比本计划 {value|percent} 的事件更极端（尾部模型）。",
    ),
    "model_forest": Text(
        en="Resembles events that turned out to be fraud: {value|percent} likely (counts from {limit|percent} on).",
        zh="与已确认的欺诈事件相似：欺诈可能性 {value|percent}（从 {limit|percent} 起计入）。",
    ),
    "model_norm": Text(
        en="{account.times_usual_points|times} × this account's usual points and {account.times_usual_day|times} × its "
        "usual day: rarer than {value|percent} of this programme's events.",
        zh="是该账户平时单笔积分的 {account.times_usual_points|times} 倍、平日的 {account.times_usual_day|times} 倍："
        "比本计划 {value|percent} 的事件更罕见。",
    ),
    "model_loda": Text(
        en="Rarer than {value|percent} of this programme's events (LODA).",
        zh="比本计划 {value|percent} 的事件更罕见（LODA 模型）。",
    ),
    VELOCITY_COLD: Text(
        en="Recent history was not available: {value} points; outflows wait, inflows above {limit} points wait.",
        zh="近期行为记录暂不可用：{value} 积分；支出一律等待，超过 {limit} 积分的收入等待。",
    ),
    POINTS_OVER_MAX: Text(en="{value} points in one event (limit {limit}).", zh="单笔 {value} 积分（上限 {limit}）。"),
    RULE_ERROR: Text(en="Rule {about} could not be evaluated.", zh="规则 {about} 无法计算。"),
    LIST_ALLOW: Text(
        en="On an allow-list (entry {value}): what speaks against it is taken back, hard limits stay.",
        zh="在放行名单上（条目 {value}）：不利因素不计，硬性限制仍然有效。",
    ),
    LIST_BLOCK: Text(en="On a block-list (entry {value}).", zh="在拦截名单上（条目 {value}）。"),
    LIST_FINAL: Text(
        en="On a block-list that nothing overrides (entry {value}).", zh="在不可豁免的拦截名单上（条目 {value}）。"
    ),
    LIST_WATCH: Text(en="On a watch-list (entry {value}).", zh="在观察名单上（条目 {value}）。"),
    "time_clamped": Text(
        en="The claimed time was too far from when the event was seen; the nearest credible time counts.",
        zh="事件声称的时间与收到的时间相差过大，按最接近的可信时间计算。",
    ),
    "insufficient_balance": Text(en="The balance is too low for {value} points.", zh="余额不足以支付 {value} 积分。"),
    "same_account": Text(en="Sender and receiver are the same account.", zh="转出与转入为同一账户。"),
    "points_out_of_range": Text(en="The amount of points is out of range.", zh="积分数额超出允许范围。"),
    "balance_out_of_range": Text(en="The balance would leave its range.", zh="余额将超出允许范围。"),
    "too_many_holds": Text(en="Too many holds of this account are open.", zh="该账户未处理的冻结过多。"),
    "not_in_pool": Text(en="The account is not a member of the pool.", zh="该账户不是此积分池的成员。"),
    "account_merged": Text(en="The account was merged into another.", zh="该账户已合并到其他账户。"),
    "unknown_original": Text(
        en="There is no such event of this source and account to take back.", zh="该来源和账户没有可冲正的原事件。"
    ),
    "nothing_to_reverse": Text(
        en="The event moved nothing, or all of it has been taken back already.",
        zh="原事件未产生积分变动，或已全部冲正。",
    ),
}
_OUTCOMES: dict[str, Text] = {
    "approve": Text(en="Approved", zh="通过"),
    "hold": Text(en="Held", zh="冻结待审"),
    "reject": Text(en="Rejected", zh="拒绝"),
    "noted": Text(en="Noted", zh="已记录"),
}
_SUSPICIOUS = Text(en=", and suspicious", zh="，但可疑")
_HEAD = Text(
    en="{outcome}: score {score} (held from {hold}, rejected from {reject}), policy {policy}, model {model}.",
    zh="{outcome}：风险分 {score}（{hold} 起冻结，{reject} 起拒绝），策略版本 {policy}，模型版本 {model}。",
)
_NO_MODEL = {"en": "none", "zh": "无"}
_NO_FLOOR = {LIST_ALLOW, LIST_WATCH}
"""What sets none, even where it adds nothing: an allow-list has nothing to take back."""
_FLOOR = {"en": "floor", "zh": "底线"}
_RULES = EFFECTLESS | {"rule"}
"""Kinds of reasons that a rule gives; all others have a text here, whatever a rule is called."""
_EFFECTLESS = {
    "shadow": Text(en="on trial", zh="试运行"),
    "snoozed": Text(en="snoozed", zh="已静默"),
}
_UNKNOWN = {"en": "unknown", "zh": "未知"}
_UNITS = {
    "en": ((86_400, " d"), (3_600, " h"), (60, " min"), (1, " s")),
    "zh": ((86_400, " 天"), (3_600, " 小时"), (60, " 分钟"), (1, " 秒")),
}


def explain(reason: Reason, policy: Policy, lang: Language) -> str:
    """The sentence for a reason, with its value and limit; the code itself where no text is known."""
    if reason.kind in _RULES:
        text = next((rule.reason for rule in policy.rules if rule.id == reason.code), None)
    else:
        text = _TEXTS.get(reason.code)
    if text is None:
        return reason.code
    return PLACEHOLDER.sub(
        lambda match: _fill(reason, match.group(1), match.group(2), lang), text.zh if lang == "zh" else text.en
    )


def describe(
    decision: Decision, policy: Policy, lang: Language, features: Mapping[str, float] | None = None
) -> tuple[str, ...]:
    """A decision, line by line: verdict, score and versions; each reason with what it added; what had no effect.

    `policy` is the one it was made under. With `features` (values by name, those that are known) it ends with a
    comparison with the account's own norm, where they allow one.
    """
    lines = [_head(decision, policy, lang)]
    lines += [
        f"  {_added(reason, lang):>8}  {reason.code}: {explain(reason, policy, lang)}" for reason in decision.reasons
    ]
    known = features or {}
    beside = beside_norm(known.get(NORM[0]), known.get(NORM[1]), lang)
    return (*lines, beside) if beside is not None else tuple(lines)


def _head(decision: Decision, policy: Policy, lang: Language) -> str:
    outcome = _in(_OUTCOMES[decision.outcome], lang) + (_in(_SUSPICIOUS, lang) if decision.suspicious else "")
    return _in(_HEAD, lang).format(
        outcome=outcome,
        score=f"{decision.score:.4f}",
        hold=policy.thresholds.hold,
        reject=policy.thresholds.reject,
        policy=decision.policy_version,
        model=decision.model_version or _NO_MODEL[lang],
    )


def _added(reason: Reason, lang: Language) -> str:
    """What a reason added in log-odds, or that it set a floor, or why it had no effect."""
    if reason.kind in EFFECTLESS:
        return _in(_EFFECTLESS[reason.kind], lang)
    if reason.kind == "ledger":
        return ""
    adds = reason.contribution != 0.0 or reason.code in _NO_FLOOR
    return f"{reason.contribution:+.2f}" if adds else _FLOOR[lang]


def _in(text: Text, lang: Language) -> str:
    return text.zh if lang == "zh" else text.en


def beside_norm(times_points: float | None, times_day: float | None, lang: Language) -> str | None:
    """How an event stands beside its account's own norm (`account.times_usual_…`); None while it has none."""
    if times_day is None or math.isnan(times_day):
        return None
    day, points = (
        f"{times_day:,.1f}",
        "" if times_points is None or math.isnan(times_points) else f"{times_points:,.1f}",
    )
    if lang == "zh":
        return f"是该账户平日的 {day} 倍" + (f"、平时单笔的 {points} 倍。" if points else "。")
    return f"{day} × this account's usual day" + (f", {points} × its usual points." if points else ".")


def _fill(reason: Reason, name: str, style: str | None, lang: Language) -> str:
    if name == "about":
        return reason.about or _UNKNOWN[lang]
    value = {"value": reason.value, "limit": reason.limit}.get(name, reason.shown.get(name))
    if value is None:
        return _UNKNOWN[lang]
    if style == "percent":
        return f"{100 * value:.1f} %"
    if style == "times":
        return f"{value:,.1f}"
    if style == "duration":
        return _duration(value, lang)
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def _duration(seconds: float, lang: Language) -> str:
    """In the largest unit of which there are at least two, so that nothing is rounded beyond recognition."""
    for size, unit in _UNITS[lang]:
        if seconds >= 2 * size or size == 1:
            return f"{seconds / size:,.0f}{unit}"
    raise AssertionError("the last unit always fits")
