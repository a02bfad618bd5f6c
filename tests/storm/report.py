"""What a storm came to: the faults found, the books compared, and tables to read."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keeper.chain.journal_read import AttemptRow
from keeper.facts import Outcome
from keeper.units import wad_to_float
from tests.storm.judge import Judge, Sent
from tests.storm.verdicts import Verdicts

ROUNDING = 1e-12  # of a metric, which is a float and was added up one by one


@dataclass(frozen=True)
class Report:
    """A finished run."""

    note: str
    verdicts: Verdicts
    judge: Judge
    journal: Sequence[AttemptRow]
    balance: int  # USD wads on the wallet
    metric_wei: float | None  # keeper_reward_wei_total; None: the keeper was restarted
    errors: Sequence[str]  # lines of its log

    @property
    def problems(self) -> list[str]:
        """Everything that is not as it should be, in words."""
        found = [*map(str, self.verdicts.findings), *self._left(), *self._books()]
        return [*found, *(f"logged as an error: {line}" for line in self.errors)]

    def _left(self) -> Iterator[str]:
        if self.verdicts.pending:
            yield f"still due or flagged at the end: {sorted(self.verdicts.pending)}"

    def _books(self) -> Iterator[str]:
        won = sum(row.reward_wad for row in self.journal if row.outcome == Outcome.WON)
        if not won == self.balance == self.judge.earned:
            yield (
                f"rewards in USD wads: journal {won}, wallet {self.balance}, "
                f"events {self.judge.earned}"
            )
        if self.metric_wei is not None:
            booked = sum(row.reward_wei for row in self.journal)
            if abs(self.metric_wei - booked) > ROUNDING * booked:
                yield f"rewards in wei: metric {self.metric_wei:.0f}, journal {booked}"
        rows = {row.tx_hash: row for row in self.journal}
        paid: Counter[str | None] = Counter()  # a transaction may be for several accounts
        for one in self.journal:
            paid[one.tx_hash] += one.reward_wad
        yield from (
            f"attempt {row.id} on {row.account} has no outcome"
            for row in self.journal
            if row.outcome is None
        )
        for sent in self.judge.sent:
            row = rows.get(sent.tx_hash)
            if row is None:
                yield f"{sent.tx_hash} ({sent.kind}) in block {sent.block} is not in the journal"
            elif not sent.success and row.outcome != Outcome.LOST:
                yield f"{sent.tx_hash} reverted and is {row.outcome} in the journal: {row.detail}"
            elif paid[row.tx_hash] != sent.reward:
                yield f"{sent.tx_hash} paid {sent.reward}, in the journal {paid[row.tx_hash]}"

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        verdicts = self.verdicts
        yield self.note
        yield (
            f"{verdicts.blocks} blocks, {len(verdicts.dealt)} accounts dealt with, "
            f"{len(verdicts.emptied)} emptied, {verdicts.escaped} escaped, "
            f"{verdicts.cured} reverts cured meanwhile, {verdicts.unpaid} without progress"
        )
        yield "blocks late  accounts"
        yield from (f"{late:>11}  {count}" for late, count in sorted(verdicts.late.items()))
        yield "blocks with room in the window until the next step of a flagged account"
        yield from (f"{late:>11}  {count}" for late, count in sorted(verdicts.paced.items()))
        kinds: dict[str, list[Sent]] = defaultdict(list)
        for sent in self.judge.sent:
            kinds[sent.kind if sent.success else f"{sent.kind} (reverted)"].append(sent)
        yield f"{'call':<48} {'sent':>5} {'gas from':>9} {'to':>9} {'USD from':>9} {'to':>9}"
        for kind, made in sorted(kinds.items()):
            gas = [sent.gas for sent in made]
            paid = [wad_to_float(sent.reward) for sent in made]
            yield (
                f"{kind:<48} {len(made):>5} {min(gas):>9} {max(gas):>9} "
                f"{min(paid):>9.2f} {max(paid):>9.2f}"
            )
        outcomes: dict[str, int] = defaultdict(int)
        for row in self.journal:
            outcomes[str(row.outcome)] += 1
        yield "journal: " + ", ".join(f"{name} {n}" for name, n in sorted(outcomes.items()))
        yield from (f"PROBLEM {problem}" for problem in self.problems)
