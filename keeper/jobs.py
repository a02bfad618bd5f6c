"""What transactions are for, and what they leave us with."""

from enum import StrEnum


class Job(StrEnum):
    """What a transaction is for. A closed set: a metric label."""

    LIQUIDATE = "liquidate"
    PREPARE = "prepare"  # what has to be done before a liquidation, as cancelling orders
    COLLATERAL = "collateral"  # buys an account's collateral at a discount against its debt
    FLATTEN = "flatten"  # closes what a liquidation has left with us
    FUND = "fund"  # moves our own margin to or from the venue
    SETTLE = "settle"  # executes an order that waits for somebody to do it
    FILL = "fill"  # takes a nonce that nothing occupies, so that what is behind it gets on
    TOP_UP = "top_up"  # sends a wallet what it pays gas with, from the treasury
    UNWRAP = "unwrap"  # turns a wallet's wrapped native token into what it pays gas with


LIQUIDATIONS = frozenset({Job.LIQUIDATE, Job.COLLATERAL})
UPKEEP = frozenset({Job.FLATTEN, Job.FUND})  # of what is ours: it is not done for its own profit
OURS = frozenset({Job.FILL, Job.TOP_UP, Job.UNWRAP})  # of the wallets, at no venue
PAID = LIQUIDATIONS | {Job.SETTLE}  # the venue's log shows that it was done; the rest just succeeds


class Gain(StrEnum):
    """What a reward is made of, where it is more than cash. A closed set: a metric label.

    A position counts at what it cost until it is closed.
    """

    DISCOUNT = "discount"  # below the mark price, of a position taken over
    UNREALISED = "unrealised"  # the same, negative: it is not ours before the position is closed
    TRADE = "trade"  # realised by closing, fees apart: discount, slippage, moves of the market
    FEE = "fee"  # paid for trading
    FUNDING = "funding"
    REPAID = "repaid"  # paid for an account's collateral
    COLLATERAL = "collateral"  # that collateral, at the venue's own price
