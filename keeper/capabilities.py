"""What a venue declares itself to be; nothing is guessed."""

from dataclasses import asdict, dataclass
from enum import StrEnum

from keeper.errors import ConfigError


class RewardKind(StrEnum):
    """What a liquidator is paid in."""

    CASH = "cash"
    INVENTORY = "inventory"
    CLAIM = "claim"


class PriceKind(StrEnum):
    """How prices reach the contract."""

    PUSH = "push"
    PULL = "pull"


class DiscoveryKind(StrEnum):
    """How accounts are found."""

    EVENTS = "events"  # indexed from the contract's logs
    PUBLISHED = "published"  # the venue lists its distressed accounts


class ActionKind(StrEnum):
    """How a liquidation is done."""

    TRANSACTION = "transaction"  # from a wallet
    ORDER = "order"  # signed for the venue's own API; none is sent yet


class CapitalKind(StrEnum):
    """What a liquidator must bring beside gas."""

    NONE = "none"
    MARGIN = "margin"  # its own, deposited at the venue, for the positions it takes over


class BatchKind(StrEnum):
    """How several accounts are liquidated in one transaction, the sender being paid for all."""

    NONE = "none"  # whoever calls the venue is paid or bound, and there is no call for several
    CALL = "call"  # the venue has one
    MULTICALL = "multicall"  # through a contract that the venue knows the sender behind


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One venue's kinds."""

    reward: RewardKind
    price: PriceKind
    discovery: DiscoveryKind = DiscoveryKind.EVENTS
    action: ActionKind = ActionKind.TRANSACTION
    capital: CapitalKind = CapitalKind.NONE
    batch: BatchKind = BatchKind.NONE
    learns_from_reads: bool = False  # what a log touches depends on accounts read: no warm start

    def refuse_unsupported(self, kind: str) -> None:
        """Raise ConfigError if a kind of venue asks for what this keeper cannot do yet."""
        if self.action is not ActionKind.TRANSACTION:
            msg = (
                f'venues: kind = "{kind}" acts by {self.action} and this keeper sends transactions'
                " only: take the table out"
            )
            raise ConfigError([msg])

    def as_text(self) -> dict[str, str]:
        """Return the kinds by name, for people and for JSON."""
        kinds = asdict(self).items()
        return {name: kind.value for name, kind in kinds if isinstance(kind, StrEnum)}
