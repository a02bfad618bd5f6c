"""What each room goes by: the settings of config.toml as the rules of the parts."""

from collections.abc import Mapping

from keeper.act.brakes import BrakeRules
from keeper.act.execution_rules import ExecutionRules
from keeper.chain.endpoints import EndpointRules
from keeper.chain.fees import FeeRules
from keeper.chain.lane_rules import LaneRules
from keeper.chain.rpc import WATCHER
from keeper.chain.treasury import TreasuryRules
from keeper.config import Settings, VenueSettings
from keeper.config.settings import GateSettings
from keeper.decide.budget import Limit, Sort, Span, Unit
from keeper.decide.hours import market_hours
from keeper.decide.learn import Prior
from keeper.facts import FeedId
from keeper.prices.board import FeedRules
from keeper.units import WAD
from keeper.watch.desk import DeskRules
from keeper.watch.reconcile import ReconcileRules


def feed_rules(settings: Settings) -> Mapping[FeedId, FeedRules]:
    """Return every feed's gates."""
    return {
        feed.id: FeedRules(
            age_ms_max=feed.age_ms_max,
            future_ms_max=feed.future_ms_max,
            conf_ppm_max=feed.conf_ppm_max,
            change_ppm_max=feed.change_ppm_max,
            sources=feed.sources,
            rule=feed.rule,
            quorum=feed.quorum,
            deviation_ppm_max=feed.deviation_ppm_max,
            contract_source=feed.contract_source,
            numerator=feed.numerator,
            denominator=feed.denominator,
            hours=market_hours(feed.market_hours, feed.market_timezone),
        )
        for feed in settings.feeds
    }


def endpoint_rules(settings: Settings) -> EndpointRules:
    """Return what endpoints are judged by."""
    chain = settings.chain
    return EndpointRules(chain.id, chain.probe_ms, chain.head_lag_blocks_max, chain.latency_ms_max)


def reconcile_rules(settings: Settings) -> ReconcileRules:
    """Return how the books are compared with the chain."""
    return ReconcileRules(**settings.reconcile.model_dump())


def lane_rules(settings: Settings) -> LaneRules:
    """Return what every wallet of the chain goes by."""
    return LaneRules(
        chain_id=settings.chain.id,
        confirmations=settings.chain.confirmations,
        reorg_depth_max=settings.chain.reorg_depth_max,
        replace_after_blocks=settings.fees.replace_after_blocks,
        cost_wei_max=settings.gate.transaction_cost_wei_max,
        rollup=settings.fees.rollup,
        fees=FeeRules(
            priority_fee_wei=settings.fees.priority_fee_wei,
            base_fee_headroom_ppm=settings.fees.base_fee_headroom_ppm,
            max_fee_per_gas_wei_max=settings.fees.max_fee_per_gas_wei_max,
            replacement_bump_ppm=settings.fees.replacement_bump_ppm,
            strategy=settings.fees.strategy,
            percentile=settings.fees.percentile,
            profit_share_ppm=settings.fees.profit_share_ppm,
            by_venue={
                venue.id: venue.fee_strategy
                for venue in settings.venues
                if venue.fee_strategy is not None
            },
        ),
    )


def treasury_rules(settings: Settings) -> TreasuryRules:
    """Return when wallets are topped up, by which."""
    return TreasuryRules(**settings.treasury.model_dump())


def budget_limits(gate: GateSettings) -> tuple[Limit, ...]:
    """Return the budgets that are configured."""
    limits = (
        Limit(Sort.GAS, Span.HOUR, Unit.WEI, gate.gas_wei_per_hour_max),
        Limit(Sort.GAS, Span.DAY, Unit.WEI, gate.gas_wei_per_day_max),
        Limit(Sort.LOSS, Span.HOUR, Unit.WEI, gate.loss_wei_per_hour_max),
        Limit(Sort.LOSS, Span.DAY, Unit.WEI, gate.loss_wei_per_day_max),
    )
    dollars = (
        (Sort.GAS, Span.HOUR, gate.gas_usd_per_hour_max),
        (Sort.GAS, Span.DAY, gate.gas_usd_per_day_max),
        (Sort.LOSS, Span.HOUR, gate.loss_usd_per_hour_max),
        (Sort.LOSS, Span.DAY, gate.loss_usd_per_day_max),
    )
    in_usd = (
        Limit(sort, span, Unit.USD, most * WAD) for sort, span, most in dollars if most is not None
    )
    return (*limits, *in_usd)


def execution_rules(settings: Settings) -> ExecutionRules:
    """Return what sending needs."""
    gate = settings.gate
    return ExecutionRules(
        head_age_ms_max=settings.chain.head_age_ms_max,
        transaction_cost_wei_max=gate.transaction_cost_wei_max,
        profit_wei_min=gate.profit_wei_min,
        open_attempts_max=gate.open_attempts_max,
        limits=budget_limits(gate),
        prior=Prior(
            p_win_ppm=gate.p_win_ppm,
            p_win_ppm_min=gate.p_win_ppm_min,
            p_win_ppm_max=gate.p_win_ppm_max,
            revert_gas=gate.revert_gas,
            revert_gas_max=gate.revert_gas_max,
        ),
        gas_limit_factor_ppm=settings.fees.gas_limit_factor_ppm,
        hold_ms=gate.hold_ms,
        native_feed=settings.chain.native_feed,
        watcher=WATCHER,
        candidate_ms_max=gate.candidate_ms_max,
        simulations_at_once_max=gate.simulations_at_once_max,
        backup_delay_blocks=gate.backup_delay_blocks,
    )


def brake_rules(settings: Settings) -> BrakeRules:
    """Return what stops sending."""
    gate = settings.gate
    return BrakeRules(
        paused=gate.paused,
        pause_file=gate.pause_file,
        reverts_in_a_row_max=gate.reverts_in_a_row_max,
        breaker_ms=gate.breaker_ms,
    )


def desk_rules(settings: Settings, venue: VenueSettings) -> DeskRules:
    """Return what deciding at a venue needs."""
    return DeskRules(
        objective=venue.objective,
        solvency_budget_wei=venue.solvency_budget_wei,
        reward_feed=venue.reward_feed,
        backoff_ms_min=settings.gate.backoff_ms_min,
        backoff_ms_max=settings.gate.backoff_ms_max,
        candidates_per_step_max=settings.gate.candidates_per_step_max,
        probe_ms=venue.probe_ms,
        batch_accounts_max=venue.batch_accounts_max,
        optimistic=venue.optimistic,
    )
