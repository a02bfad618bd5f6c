"""The demo market with one account that its adapter cannot handle. For tests only."""

from collections.abc import Sequence
from typing import Any, Literal

from keeper.facts import AccountId, AccountState, Assessment, Head
from keeper.margin.rows import Row
from keeper.ports import AnyVenue, Rpc
from keeper.venues import demo_market


class Settings(demo_market.Settings):
    """Those of the demo market, and which account fails where."""

    poison: str
    step: Literal["read", "compile", "assess"]


class PoisonedMarket:
    """Fails like an adapter with a bug: with an exception that nobody expects."""

    def __init__(self, inner: AnyVenue, poison: str, step: str) -> None:
        self._inner = inner
        self._poison = poison
        self._step = step

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the demo market has
        return getattr(self._inner, name)

    def _drink(self, account: str, step: str) -> None:
        if account == self._poison and step == self._step:
            msg = f"poisoned in {step}"
            raise ZeroDivisionError(msg)

    async def read_accounts(
        self, accounts: Sequence[AccountId], head: Head
    ) -> Sequence[AccountState]:
        for account in accounts:
            self._drink(account, "read")
        return await self._inner.read_accounts(accounts, head)

    def compile(self, account: AccountState, *rest: Any) -> Row | None:  # noqa: ANN401 - passed on
        self._drink(account.account, "compile")
        return self._inner.compile(account, *rest)

    def assess(self, account: AccountState, *rest: Any) -> Assessment:  # noqa: ANN401 - passed on
        self._drink(account.account, "assess")
        return self._inner.assess(account, *rest)


def build(settings: Settings, rpc: Rpc, chain_id: int) -> PoisonedMarket:
    """Make it."""
    return PoisonedMarket(
        demo_market.build(settings, rpc, chain_id), settings.poison, settings.step
    )
