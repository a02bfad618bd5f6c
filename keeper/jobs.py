"""What transactions are for."""

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


LIQUIDATIONS = frozenset({Job.LIQUIDATE, Job.COLLATERAL})
PAID = LIQUIDATIONS | {Job.SETTLE}  # the venue's log shows that it was done; the rest just succeeds
