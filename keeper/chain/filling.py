"""What fills a gap in a wallet's nonces: a transfer of nothing to itself."""

from keeper.chain.fees import TRANSFER_GAS
from keeper.decide.economics import Economics, Fee
from keeper.facts import OWN, AccountId, Call, Head, Plan
from keeper.jobs import Job
from keeper.units import PPM


def filling(address: str, nonce: int, fee: Fee, head: Head) -> Plan:
    """Return the plan of a transaction that only uses up a nonce."""
    cost_wei = TRANSFER_GAS * fee.max_fee_wei
    return Plan(
        venue=OWN,
        account=AccountId(f"{address} nonce {nonce}"),
        call=Call(address, b""),
        gas_limit=TRANSFER_GAS,
        cost_wei_max=cost_wei,
        expected=Economics(0, cost_wei, 0, 0, PPM),
        tick_ns=0,
        decided_ns=0,
        simulated_at=head.number,
        job=Job.FILL,
    )
