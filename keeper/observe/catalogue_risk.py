"""The gauges of risk in the table of metrics."""

from keeper.observe._metric import Given, gauge, one_of

VENUE = Given("venue")
MARKET = Given("market")
WITHIN_BP = one_of(["25", "50", "100", "200", "500", "1000"])  # basis points

RISK = (
    gauge(
        "near_accounts",
        "Accounts not under-margined that are so many basis points or less from it, prices moving "
        "against them; an account counts in each of its markets.",
        venue=VENUE,
        market=MARKET,
        within_bp=WITHIN_BP,
    ),
    gauge(
        "near_notional_usd",
        "Their notional in the market, in USD.",
        unit="usd",
        venue=VENUE,
        market=MARKET,
        within_bp=WITHIN_BP,
    ),
    gauge(
        "under_margined_notional_usd",
        "Notional of the accounts that are under-margined, in USD.",
        unit="usd",
        venue=VENUE,
        market=MARKET,
    ),
    gauge(
        "open_interest_usd",
        "Notional of all positions, by side, in USD.",
        unit="usd",
        venue=VENUE,
        market=MARKET,
        side=one_of(["long", "short"]),
    ),
    gauge(
        "equity_usd",
        "Equity in USD; an account's is shared among its markets by notional, - is for those "
        "without a position.",
        unit="usd",
        venue=VENUE,
        market=MARKET,
    ),
    gauge(
        "bad_debt_usd",
        "What insolvent accounts would leave unpaid at these prices, in USD, shared likewise.",
        unit="usd",
        venue=VENUE,
        market=MARKET,
    ),
    gauge(
        "leverage_ratio",
        "Open interest over equity; NaN without equity.",
        unit="ratio",
        venue=VENUE,
        market=MARKET,
    ),
    gauge(
        "margin_utilisation_ratio",
        "What maintenance and reserve require, over equity; NaN without equity.",
        unit="ratio",
        venue=VENUE,
        market=MARKET,
    ),
    gauge(
        "risk_unknown_accounts",
        "Accounts that the gauges of risk leave out (quarantined, unpriced), or take for less than "
        "they are worth.",
        venue=VENUE,
        why=one_of(["quarantined", "unpriced", "worth_more"]),
    ),
)
