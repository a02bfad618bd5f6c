"""``keeper bench``: measurements of parts of the keeper on this machine."""

import sys
from typing import Any

import click


@click.group()
def bench() -> None:
    """Measure a part of the keeper on this machine, and compare what it computes."""


@bench.command()
@click.option(
    "--accounts",
    default=2_000,
    show_default=True,
    type=click.IntRange(200, 100_000),
    help="In the book.",
)
@click.option(
    "--rounds",
    default=60,
    show_default=True,
    type=click.IntRange(1, 1_000),
    help="Prices published.",
)
@click.option(
    "--peer-rounds",
    default=10,
    show_default=True,
    type=click.IntRange(1, 100),
    help="Of the polling peer.",
)
@click.option("--seed", default=1, show_default=True, help="Of accounts and moments.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def submit(as_json: bool, **options: int) -> None:  # noqa: FBT001
    """Measure from a published price to an accepted transaction. Exit code 1 beyond the targets."""
    from keeper.bench.submit import Options  # noqa: PLC0415
    from keeper.bench.submit import main as measure  # noqa: PLC0415

    sys.exit(measure(Options(**options), as_json=as_json))


@bench.command()
@click.option(
    "--accounts",
    default=1_000_000,
    show_default=True,
    type=click.IntRange(100),
    help="In the book.",
)
@click.option(
    "--exposures", default=4, show_default=True, type=click.IntRange(2, 16), help="Of each account."
)
@click.option(
    "--factors",
    default=53,
    show_default=True,
    type=click.IntRange(20, 1000),
    help="Prices and indices.",
)
@click.option("--zipf", default=1.0, show_default=True, help="Exponent of markets' popularity.")
@click.option("--median", default=30.0, show_default=True, help="Percent to liquidation.")
@click.option("--sigma", default=1.0, show_default=True, help="Of the distances' logarithm.")
@click.option("--seed", default=1, show_default=True, help="Of accounts and moves.")
@click.option("--ticks", default=2000, show_default=True, type=click.IntRange(20), help="A walk.")
@click.option("--sizes", is_flag=True, help="Also 1/100, 1/10 and twice as many accounts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def margin(ticks: int, sizes: bool, as_json: bool, **shape: Any) -> None:  # noqa: ANN401, FBT001
    """Measure the margin book against recomputing. Exit code 1 if it ever differs."""
    from keeper.bench.accounts import Shape  # noqa: PLC0415
    from keeper.bench.margin import main as measure  # noqa: PLC0415

    sys.exit(measure(Shape(**shape), ticks, sizes=sizes, as_json=as_json))


@bench.command()
@click.option(
    "--logs",
    default=1_000_000,
    show_default=True,
    type=click.IntRange(10_000, 10**7),
    help="To decode.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def decode(logs: int, as_json: bool) -> None:  # noqa: FBT001
    """Measure decoding logs against web3, reading and folding them against reading their bytes.

    Exit code 1 if anything is decoded or folded otherwise than it should be.
    """
    from keeper.bench.decode import main as measure  # noqa: PLC0415

    sys.exit(measure(logs, as_json=as_json))


@bench.command()
@click.option(
    "--accounts",
    "sizes",
    multiple=True,
    default=(1_000, 100_000),
    show_default=True,
    type=click.IntRange(100, 100_000),
    help="May be given several times.",
)
@click.option("--seed", default=1, show_default=True, help="Of the accounts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list instead of a table.")
def start(sizes: tuple[int, ...], seed: int, as_json: bool) -> None:  # noqa: FBT001
    """Measure how long a keeper takes to be ready, knowing nothing and with a snapshot.

    Exit code 1 when accounts are missing, or the second start reads as much as the first.
    """
    from keeper.bench.start import main as measure  # noqa: PLC0415

    sys.exit(measure(sizes, seed, as_json=as_json))


@bench.command()
@click.option(
    "--accounts",
    default=100_000,
    show_default=True,
    type=click.IntRange(100, 10**6),
    help="In the book.",
)
@click.option("--mapped", default=5_000, show_default=True, help="Of these, for the map.")
@click.option(
    "--seconds", default=60.0, show_default=True, help="For a round and for a stress, at most."
)
@click.option("--seed", default=1, show_default=True, help="Of the accounts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def risk(
    accounts: int,
    mapped: int,
    seconds: float,
    seed: int,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Measure gauges, stress and map of many accounts, and how late they make other loops.

    Exit code 1 if a total is not that of a plain sum.
    """
    from keeper.bench.risk import main as measure  # noqa: PLC0415

    sys.exit(measure(accounts, mapped, seed, seconds, as_json=as_json))
