"""The end of a run: what the contract says happened, against what the keeper wrote down."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from keeper.chain.journal_read import AttemptRow
from keeper.demo.judge import Findings
from keeper.demo.verdicts import Liquidation, Verdicts
from keeper.facts import Outcome
from keeper.units import wad_to_float

LISTED_MAX = 5  # accounts named in a problem


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Nearest-rank percentiles; None when there was nothing to measure."""

    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """A finished run. Counts are accounts unless they say otherwise."""

    seed: int
    accounts: int
    blocks: int  # judged
    ticks: int
    due: int  # liquidatable for a block, or liquidated before the block was over
    liquidatable: int  # for two blocks in a row, the one of its liquidation included
    liquidated: int
    liquidations: int  # events: a partial one leaves a second step
    in_time: int  # events after no or one true block
    missed: int
    cured: int  # of the missed: not liquidatable any more when the run ended
    escaped: int  # times that somebody liquidatable was cured before being liquidated
    standing: int  # still liquidatable when the run ended
    wrong: int
    attempts: int
    reverted: int  # transactions, by the chain
    replacements: int
    outcomes: dict[str, int]
    profit_wei: int
    gas_wei: int  # by the chain
    rewards_usd: float
    bad_debt_usd: float
    tick_to_sent_ms: Percentiles
    blocks_late: dict[int, int]  # blocks late -> liquidations
    problems: tuple[str, ...]  # why the run does not hold; empty: it does

    @property
    def holds(self) -> bool:
        """Whether the keeper did its job."""
        return not self.problems

    def as_json(self) -> dict[str, object]:
        """Return what ``--json`` prints."""
        return {
            "holds": self.holds,
            "problems": list(self.problems),
            "seed": self.seed,
            "accounts": self.accounts,
            "blocks": self.blocks,
            "ticks": self.ticks,
            "due": self.due,
            "liquidatable": self.liquidatable,
            "liquidated": self.liquidated,
            "liquidations": self.liquidations,
            "in_time": self.in_time,
            "missed": self.missed,
            "cured": self.cured,
            "escaped": self.escaped,
            "standing": self.standing,
            "wrong": self.wrong,
            "attempts": self.attempts,
            "reverted": self.reverted,
            "replacements": self.replacements,
            "outcomes": self.outcomes,
            "profit_wei": self.profit_wei,
            "gas_wei": self.gas_wei,
            "rewards_usd": self.rewards_usd,
            "bad_debt_usd": self.bad_debt_usd,
            "tick_to_sent_ms": {"p50": self.tick_to_sent_ms.p50, "p99": self.tick_to_sent_ms.p99},
            "blocks_late": {
                "max": max(self.blocks_late, default=0),
                "histogram": {str(late): n for late, n in sorted(self.blocks_late.items())},
            },
        }


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything a report is made of."""

    seed: int
    accounts: int
    ticks: int
    wallet: str
    verdicts: Verdicts
    findings: Findings
    journal: Sequence[AttemptRow]  # of the stopped keeper
    keeper_exit: int | None
    spent_wei: int  # by the wallet, as its balance shows


def make_report(evidence: Evidence) -> Report:
    """Compare the chain with what the keeper wrote down."""
    verdicts, findings, rows = evidence.verdicts, evidence.findings, evidence.journal
    return Report(
        seed=evidence.seed,
        accounts=evidence.accounts,
        blocks=verdicts.blocks,
        ticks=evidence.ticks,
        due=len(verdicts.due),
        liquidatable=len(verdicts.liquidatable),
        liquidated=len({one.account for one in findings.liquidations}),
        liquidations=len(findings.liquidations),
        in_time=sum(count for late, count in verdicts.late.items() if late <= 1),
        missed=len(verdicts.missed),
        cured=len(verdicts.cured),
        escaped=verdicts.escaped,
        standing=len(verdicts.standing),
        wrong=len({(one.account, one.block) for one in findings.wrong}),
        attempts=len(rows),
        reverted=findings.reverted,
        replacements=sum(row.replacements for row in rows),
        outcomes=dict(Counter(row.outcome or "open" for row in rows)),
        profit_wei=sum(row.reward_wei - row.cost_wei for row in rows),
        gas_wei=findings.gas_wei,
        rewards_usd=_usd(sum(one.reward for one in _ours(evidence))),
        bad_debt_usd=_usd(findings.bad_debt),
        tick_to_sent_ms=_percentiles([row.tick_to_sent_ms for row in rows]),
        blocks_late=dict(sorted(verdicts.late.items())),
        problems=tuple(_problems(evidence)),
    )


def _ours(evidence: Evidence) -> list[Liquidation]:
    found = evidence.findings.liquidations
    return [one for one in found if one.liquidator == evidence.wallet]


def _problems(evidence: Evidence) -> list[str]:
    verdicts = evidence.verdicts
    problems = []
    if verdicts.missed:
        problems.append(f"missed: {_listing(verdicts.missed)}")
    if left := verdicts.standing - verdicts.missed:
        problems.append(f"still liquidatable at the end: {_listing(left)}")
    if wrong := {one.account for one in evidence.findings.wrong}:
        problems.append(f"liquidated, though no published price allowed it: {_listing(wrong)}")
    if verdicts.due and not evidence.findings.liquidations:
        problems.append("nothing was liquidated, though there was something to liquidate")
    if evidence.keeper_exit != 0:
        problems.append(f"the keeper ended with exit code {evidence.keeper_exit}, not 0")
    return [*problems, *_disagreements(evidence)]


def _disagreements(evidence: Evidence) -> list[str]:
    """Compare the journal's wins with the chain's events by our wallet, reward for reward."""
    chain = Counter((one.tx_hash, str(one.account), one.reward) for one in _ours(evidence))
    won = [row for row in evidence.journal if row.outcome == Outcome.WON]
    journal = Counter((row.tx_hash or "", row.account, row.reward_wad) for row in won)
    problems = []
    for title, more, less in (
        ("on chain, but not won in the journal", chain, journal),
        ("won in the journal, but not on chain", journal, chain),
    ):
        if extra := more - less:
            some = ", ".join(f"account {account} in {tx}" for tx, account, _ in list(extra)[:3])
            problems.append(f"{extra.total()} liquidations {title}: {some}")
    cost_wei = sum(row.cost_wei for row in evidence.journal)
    if cost_wei != evidence.spent_wei:
        problems.append(f"the journal says {cost_wei} wei spent, the wallet {evidence.spent_wei}")
    if still_open := sum(row.outcome is None for row in evidence.journal):
        problems.append(f"{still_open} attempts are open in the journal of the stopped keeper")
    return problems


def _listing(accounts: Collection[int]) -> str:
    shown = ", ".join(str(account) for account in sorted(accounts)[:LISTED_MAX])
    more = ", …" if len(accounts) > LISTED_MAX else ""
    return f"{len(accounts)} accounts ({shown}{more})"


def _usd(wad: int) -> float:
    return round(wad_to_float(wad), 2)


def _percentiles(values: Sequence[float | None]) -> Percentiles:
    known = sorted(value for value in values if value is not None)
    if not known:
        return Percentiles(None, None)
    p50, p99 = (known[max(math.ceil(part * len(known)) - 1, 0)] for part in (0.5, 0.99))
    return Percentiles(round(p50, 3), round(p99, 3))
