"""The metrics of the chain, its endpoints and the wallets on it."""

from keeper.errors import EndpointState, RpcFault
from keeper.observe._metric import Given, counter, gauge, histogram, one_of

VENUE = Given("venue")
WALLET = Given("wallet")
ENDPOINT = Given("endpoint")

CHAIN = (
    gauge("head_block", "Number of the newest block."),
    gauge("head_age_seconds", "Seconds since the newest block was learned of.", unit="seconds"),
    gauge(
        "head_age_limit_seconds",
        "Age of the newest block beyond which nothing is started.",
        unit="seconds",
    ),
    histogram(
        "head_delay_seconds",
        "Time from a block's time stamp until it was learned of: announced or polled for.",
        how=one_of(["announced", "polled"]),
    ),
    counter(
        "accounts_read_total",
        "Accounts read from the chain because something had touched them, or at a start.",
        venue=VENUE,
    ),
    counter(
        "hinted_accounts_total",
        "Accounts read again for an announced log alone, which no logs that were read have named.",
        venue=VENUE,
    ),
    gauge("wallet_balance_wei", "Balance of the wallet in wei.", unit="wei", wallet=WALLET),
    gauge(
        "wallet_balance_limit_wei",
        "Balance below which the wallet starts no attempt, in wei.",
        unit="wei",
        wallet=WALLET,
    ),
    gauge("wallet_parked", "1 while the wallet starts no attempt, else 0.", wallet=WALLET),
    gauge(
        "backfill_blocks_left",
        "Blocks whose logs are still to be read for the venue before it is complete.",
        venue=VENUE,
    ),
    counter("reorgs_total", "Blocks found to have replaced ones that were read before."),
    counter(
        "rpc_requests_total",
        "Requests to the chain's endpoints, by endpoint and what came of them.",
        zeroed=False,
        endpoint=ENDPOINT,
        result=one_of(["ok"], RpcFault),
    ),
    counter(
        "broadcasts_total",
        "Transactions given to an endpoint, by endpoint and what came of it.",
        zeroed=False,
        endpoint=ENDPOINT,
        result=one_of(["ok"], RpcFault),
    ),
    gauge(
        "endpoint_state",
        "1 for the state an endpoint is in, 0 for the others.",
        endpoint=ENDPOINT,
        state=one_of(EndpointState),
    ),
    gauge(
        "endpoint_latency_seconds",
        "Time an endpoint takes to answer a probe, smoothed.",
        unit="seconds",
        endpoint=ENDPOINT,
    ),
    gauge(
        "endpoint_lag_blocks",
        "Blocks an endpoint's head is behind the farthest one.",
        endpoint=ENDPOINT,
    ),
)
