# pragma version 0.4.3
# pragma optimize codesize
"""
@title Demo market: cross-margin, multi-collateral perpetual futures on signed prices
@license MIT
@notice The market of `keeper demo` and of the tests. It holds no real money: its USD is its own
        ledger, profits are minted and losses burnt.
@dev Amounts are wads (18 decimals): USD, sizes, prices and rates alike. Every product is truncated
     toward zero, exactly as in keeper/margin/model.py, so that both agree to the last unit.
     A funding index is the cumulative funding per unit of base asset: a long has paid
     size x (index now - index at entry).
"""

MAX_FEEDS: constant(uint256) = 8
MAX_MARKETS: constant(uint256) = 8
MAX_ASSETS: constant(uint256) = 4
MAX_TIERS: constant(uint256) = 4
MAX_UPDATES: constant(uint256) = 8
MAX_IDS: constant(uint256) = 256  # accounts per read
MAX_BATCH: constant(uint256) = 32  # accounts per liquidation: about 3 million gas
MAX_SEEDS: constant(uint256) = 25  # accounts per seed: about 6 million gas

WAD: constant(uint256) = 10**18
DAY_S: constant(int256) = 86_400
CLOCK_SKEW_S: constant(uint256) = 60  # how far ahead of the block a publisher's clock may be
INITIAL_MARGIN: constant(int256) = 2  # multiple of maintenance needed to trade or withdraw


struct Tier:
    up_to: uint256  # max_value(uint256): open
    rate: uint256


struct PriceUpdate:
    feed: uint256
    price: uint256
    published_ms: uint256
    v: uint256
    r: uint256
    s: uint256


struct Feed:
    name: String[16]
    price: uint256
    published_ms: uint256  # 0: no price yet


struct Market:
    name: String[16]
    feed: uint256
    tiers: DynArray[Tier, MAX_TIERS]
    skew: int256  # sum of all sizes
    skew_scale: uint256  # the skew at which the funding rate reaches its maximum
    funding_rate_max: uint256  # per day
    index_last: int256
    t_last: uint256


struct Asset:
    name: String[16]
    feed: uint256
    haircuts: DynArray[Tier, MAX_TIERS]


struct Reserve:
    rate: uint256
    minimum: uint256
    maximum: uint256


struct Position:
    size: int256  # 0: no position, and then the rest is 0 too
    entry_price: uint256
    funding_index: int256  # when funding was last settled


struct Account:
    owner: address
    cash: int256
    collateral: uint256[MAX_ASSETS]
    positions: Position[MAX_MARKETS]


struct SeedPosition:
    size: int256
    entry_price: uint256


struct SeedAccount:
    owner: address
    cash: int256
    collateral: uint256[MAX_ASSETS]
    positions: SeedPosition[MAX_MARKETS]


struct AccountView:
    id: uint256
    owner: address
    cash: int256
    collateral: uint256[MAX_ASSETS]
    positions: Position[MAX_MARKETS]


struct MarketView:
    max_price_age_s: uint256
    update_fee_wei: uint256
    whole_below: uint256
    reserve: Reserve
    account_count: uint256
    feeds: DynArray[Feed, MAX_FEEDS]
    markets: DynArray[Market, MAX_MARKETS]
    assets: DynArray[Asset, MAX_ASSETS]


struct Margin:
    equity: int256
    net_value: int256
    maintenance: uint256
    reserve: uint256
    notional: uint256
    positions: uint256  # how many are open
    fresh: bool  # every price it stands on is young enough to act on


event AccountOpened:
    account: indexed(uint256)
    owner: indexed(address)

event CashChanged:
    account: indexed(uint256)
    cash: int256

event CollateralChanged:
    account: indexed(uint256)
    asset: indexed(uint256)
    amount: uint256

event PositionChanged:
    account: indexed(uint256)
    market: indexed(uint256)
    size: int256
    entry_price: uint256

event PriceUpdated:
    feed: indexed(uint256)
    price: uint256
    published_ms: uint256

event ParametersChanged:
    pass

event Liquidated:
    account: indexed(uint256)
    liquidator: indexed(address)
    reward: uint256
    closed_notional: uint256
    full: bool

event BadDebt:
    account: indexed(uint256)
    amount: uint256

event Transfer:
    sender: indexed(address)
    receiver: indexed(address)
    amount: uint256


decimals: public(constant(uint8)) = 18
owner: public(immutable(address))
signer: public(immutable(address))
balanceOf: public(HashMap[address, uint256])

max_price_age_s: uint256
update_fee_wei: uint256
whole_below: uint256
reserve: Reserve
account_count: uint256
feeds: DynArray[Feed, MAX_FEEDS]
markets: DynArray[Market, MAX_MARKETS]
assets: DynArray[Asset, MAX_ASSETS]
accounts: HashMap[uint256, Account]


@deploy
def __init__(price_signer: address, max_price_age_s: uint256, update_fee_wei: uint256):
    assert price_signer != empty(address), "no signer"
    owner = msg.sender
    signer = price_signer
    self.max_price_age_s = max_price_age_s
    self.update_fee_wei = update_fee_wei


# --- arithmetic -----------------------------------------------------------------------------------


@internal
@pure
def _mul(left: int256, right: int256) -> int256:
    return left * right // convert(WAD, int256)  # SDIV: toward zero


@internal
@pure
def _umul(left: uint256, right: uint256) -> uint256:
    return left * right // WAD


@internal
@pure
def _int(amount: uint256) -> int256:
    return convert(amount, int256)


@internal
@pure
def _magnitude(amount: int256) -> uint256:
    return convert(abs(amount), uint256)


@internal
@pure
def _maintenance(notional: uint256, tiers: DynArray[Tier, MAX_TIERS]) -> uint256:
    """@dev Progressive: each rate applies to the part of the notional inside its bracket."""
    total: uint256 = 0
    lower: uint256 = 0
    for tier: Tier in tiers:
        upper: uint256 = min(notional, tier.up_to)
        if upper <= lower:
            break
        total += self._umul(upper - lower, tier.rate)
        lower = upper
    return total


@internal
@pure
def _haircut_value(amount: uint256, price: uint256, tiers: DynArray[Tier, MAX_TIERS]) -> uint256:
    total: uint256 = 0
    lower: uint256 = 0
    for tier: Tier in tiers:
        upper: uint256 = min(amount, tier.up_to)
        if upper <= lower:
            break
        total += self._umul(self._umul(upper - lower, price), WAD - tier.rate)
        lower = upper
    return total


@internal
@view
def _reserve_for(notional: uint256) -> uint256:
    terms: Reserve = self.reserve
    return min(max(self._umul(notional, terms.rate), terms.minimum), terms.maximum)


@internal
@view
def _funding_index(market: uint256) -> int256:
    """@dev The index at this block: index_last + price x rate x elapsed / day."""
    ceiling: int256 = self._int(self.markets[market].funding_rate_max)
    rate: int256 = (
        self.markets[market].skew * ceiling // self._int(self.markets[market].skew_scale)
    )
    rate = min(max(rate, -ceiling), ceiling)
    price: int256 = self._int(self.feeds[self.markets[market].feed].price)
    elapsed: int256 = self._int(block.timestamp - self.markets[market].t_last)
    return self.markets[market].index_last + self._mul(price, rate) * elapsed // DAY_S


@internal
@view
def _is_fresh(feed: uint256) -> bool:
    if self.feeds[feed].price == 0:
        return False
    return block.timestamp * 1000 <= self.feeds[feed].published_ms + self.max_price_age_s * 1000


@internal
@view
def _margin(account: uint256) -> Margin:
    """@dev At the stored prices whatever their age; `fresh` says whether one may act on it."""
    result: Margin = empty(Margin)
    result.fresh = True
    result.equity = self.accounts[account].cash
    result.net_value = result.equity
    for i: uint256 in range(len(self.assets), bound=MAX_ASSETS):
        amount: uint256 = self.accounts[account].collateral[i]
        if amount == 0:
            continue
        feed: uint256 = self.assets[i].feed
        price: uint256 = self.feeds[feed].price
        result.fresh = result.fresh and self._is_fresh(feed)
        result.equity += self._int(self._haircut_value(amount, price, self.assets[i].haircuts))
        result.net_value += self._int(self._umul(amount, price))
    for i: uint256 in range(len(self.markets), bound=MAX_MARKETS):
        position: Position = self.accounts[account].positions[i]
        if position.size == 0:
            continue
        feed: uint256 = self.markets[i].feed
        price: uint256 = self.feeds[feed].price
        result.fresh = result.fresh and self._is_fresh(feed)
        result.positions += 1
        gained: int256 = self._mul(
            position.size, self._int(price) - self._int(position.entry_price)
        )
        owed: int256 = self._mul(position.size, self._funding_index(i) - position.funding_index)
        result.equity += gained - owed
        result.net_value += gained - owed
        notional: uint256 = self._umul(self._magnitude(position.size), price)
        result.notional += notional
        result.maintenance += self._maintenance(notional, self.markets[i].tiers)
    if result.positions != 0:
        result.reserve = self._reserve_for(result.notional)
    return result


@internal
@pure
def _is_under(margin: Margin) -> bool:
    required: int256 = self._int(margin.maintenance + margin.reserve)
    return margin.positions != 0 and margin.equity < required


# --- state changes --------------------------------------------------------------------------------


@internal
def _accrue(market: uint256):
    self.markets[market].index_last = self._funding_index(market)
    self.markets[market].t_last = block.timestamp


@internal
def _mint(receiver: address, amount: uint256):
    self.balanceOf[receiver] += amount
    log Transfer(sender=empty(address), receiver=receiver, amount=amount)


@internal
def _set_cash(account: uint256, cash: int256):
    self.accounts[account].cash = cash
    log CashChanged(account=account, cash=cash)


@internal
def _set_position(account: uint256, market: uint256, position: Position):
    """@dev The market must have been accrued: the skew sets the funding rate from here on."""
    self.markets[market].skew += position.size - self.accounts[account].positions[market].size
    self.accounts[account].positions[market] = position
    log PositionChanged(
        account=account, market=market, size=position.size, entry_price=position.entry_price
    )


@internal
def _apply(updates: DynArray[PriceUpdate, MAX_UPDATES]):
    for update: PriceUpdate in updates:
        assert update.feed < len(self.feeds), "no such feed"
        digest: bytes32 = keccak256(
            abi_encode(chain.id, self, update.feed, update.price, update.published_ms)
        )
        assert ecrecover(digest, update.v, update.r, update.s) == signer, "bad signature"
        assert update.price != 0, "price is zero"
        ahead: bool = update.published_ms // 1000 > block.timestamp + CLOCK_SKEW_S
        assert not ahead, "price from the future"
        if update.published_ms <= self.feeds[update.feed].published_ms:
            continue  # somebody was faster: no reason to fail the rest of the transaction
        for i: uint256 in range(len(self.markets), bound=MAX_MARKETS):
            if self.markets[i].feed == update.feed:
                self._accrue(i)
        self.feeds[update.feed].price = update.price
        self.feeds[update.feed].published_ms = update.published_ms
        log PriceUpdated(
            feed=update.feed, price=update.price, published_ms=update.published_ms
        )


@internal
@view
def _check_fee(paid: uint256, updates: uint256):
    assert paid >= self.update_fee_wei * updates, "fee too low"


@internal
@view
def _check_initial_margin(account: uint256):
    margin: Margin = self._margin(account)
    assert margin.fresh, "stale price"
    required: int256 = INITIAL_MARGIN * self._int(margin.maintenance) + self._int(margin.reserve)
    assert margin.equity >= required, "not enough margin"


@internal
def _write_off(account: uint256):
    """@dev After a full close: a negative net value is the market's loss."""
    net_value: int256 = self.accounts[account].cash
    for i: uint256 in range(len(self.assets), bound=MAX_ASSETS):
        price: uint256 = self.feeds[self.assets[i].feed].price
        net_value += self._int(self._umul(self.accounts[account].collateral[i], price))
    if net_value >= 0:
        return
    for i: uint256 in range(len(self.assets), bound=MAX_ASSETS):
        if self.accounts[account].collateral[i] != 0:
            self.accounts[account].collateral[i] = 0
            log CollateralChanged(account=account, asset=i, amount=0)
    self._set_cash(account, 0)
    log BadDebt(account=account, amount=self._magnitude(net_value))


@internal
def _liquidate(account: uint256, liquidator: address) -> uint256:
    margin: Margin = self._margin(account)
    assert margin.fresh, "stale price"
    assert self._is_under(margin), "not liquidatable"
    full: bool = (
        margin.notional <= self.whole_below or margin.equity * 2 < self._int(margin.maintenance)
    )
    cash: int256 = self.accounts[account].cash
    closed_notional: uint256 = 0
    for i: uint256 in range(len(self.markets), bound=MAX_MARKETS):
        position: Position = self.accounts[account].positions[i]
        if position.size == 0:
            continue
        self._accrue(i)
        price: uint256 = self.feeds[self.markets[i].feed].price
        index: int256 = self.markets[i].index_last
        closed: int256 = position.size if full else position.size // 2
        cash += self._mul(closed, self._int(price) - self._int(position.entry_price))
        cash -= self._mul(position.size, index - position.funding_index)
        closed_notional += self._umul(self._magnitude(closed), price)
        position.size -= closed
        position.funding_index = index
        self._set_position(account, i, empty(Position) if position.size == 0 else position)
    reward: uint256 = self._reserve_for(closed_notional)
    self._set_cash(account, cash - self._int(reward))
    self._mint(liquidator, reward)
    if full:
        self._write_off(account)
    log Liquidated(
        account=account,
        liquidator=liquidator,
        reward=reward,
        closed_notional=closed_notional,
        full=full,
    )
    return reward


# --- the owner ------------------------------------------------------------------------------------


@internal
@view
def _check_owner(caller: address):
    assert caller == owner, "owner only"


@internal
@pure
def _check_tiers(tiers: DynArray[Tier, MAX_TIERS]):
    """@dev Brackets rise and the last is open; no rate above one."""
    lower: uint256 = 0
    for tier: Tier in tiers:
        assert tier.up_to > lower and tier.rate <= WAD, "bad tiers"
        lower = tier.up_to
    assert lower == max_value(uint256), "bad tiers"


@external
def add_feed(name: String[16]):
    self._check_owner(msg.sender)
    self.feeds.append(Feed(name=name, price=0, published_ms=0))
    log ParametersChanged()


@external
def add_market(
    name: String[16],
    feed: uint256,
    tiers: DynArray[Tier, MAX_TIERS],
    funding_rate_max: uint256,
    skew_scale: uint256,
):
    self._check_owner(msg.sender)
    self._check_tiers(tiers)
    assert feed < len(self.feeds), "no such feed"
    assert skew_scale != 0, "skew scale is zero"
    self.markets.append(
        Market(
            name=name,
            feed=feed,
            tiers=tiers,
            skew=0,
            skew_scale=skew_scale,
            funding_rate_max=funding_rate_max,
            index_last=0,
            t_last=block.timestamp,
        )
    )
    log ParametersChanged()


@external
def add_asset(name: String[16], feed: uint256, haircuts: DynArray[Tier, MAX_TIERS]):
    self._check_owner(msg.sender)
    self._check_tiers(haircuts)
    assert feed < len(self.feeds), "no such feed"
    self.assets.append(Asset(name=name, feed=feed, haircuts=haircuts))
    log ParametersChanged()


@external
def set_reserve(rate: uint256, minimum: uint256, maximum: uint256):
    self._check_owner(msg.sender)
    assert minimum <= maximum, "bad reserve"
    self.reserve = Reserve(rate=rate, minimum=minimum, maximum=maximum)
    log ParametersChanged()


@external
def set_whole_below(notional: uint256):
    self._check_owner(msg.sender)
    self.whole_below = notional
    log ParametersChanged()


@external
def set_price_rules(max_price_age_s: uint256, update_fee_wei: uint256):
    self._check_owner(msg.sender)
    self.max_price_age_s = max_price_age_s
    self.update_fee_wei = update_fee_wei
    log ParametersChanged()


@external
def mint_usd(to: address, amount: uint256):
    self._check_owner(msg.sender)
    self._mint(to, amount)


@external
def seed_accounts(accounts: DynArray[SeedAccount, MAX_SEEDS]):
    """
    @notice Open accounts with cash, collateral and positions out of nothing.
    @dev Ids are consecutive; AccountOpened is the only event, it stands for the whole account.
    """
    self._check_owner(msg.sender)
    for i: uint256 in range(len(self.markets), bound=MAX_MARKETS):
        self._accrue(i)
    for seed: SeedAccount in accounts:
        account: uint256 = self._open(seed.owner)
        self.accounts[account].cash = seed.cash
        for i: uint256 in range(MAX_ASSETS):
            if seed.collateral[i] != 0:
                assert i < len(self.assets), "no such asset"
                self.accounts[account].collateral[i] = seed.collateral[i]
        for i: uint256 in range(MAX_MARKETS):
            size: int256 = seed.positions[i].size
            if size != 0:
                assert i < len(self.markets), "no such market"
                self.accounts[account].positions[i] = Position(
                    size=size,
                    entry_price=seed.positions[i].entry_price,
                    funding_index=self.markets[i].index_last,
                )
                self.markets[i].skew += size


@internal
def _open(account_owner: address) -> uint256:
    self.account_count += 1
    self.accounts[self.account_count].owner = account_owner
    log AccountOpened(account=self.account_count, owner=account_owner)
    return self.account_count


# --- users ----------------------------------------------------------------------------------------


@internal
def _burn(sender: address, amount: uint256):
    self.balanceOf[sender] -= amount
    log Transfer(sender=sender, receiver=empty(address), amount=amount)


@internal
@view
def _check_account(account: uint256):
    assert account != 0 and account <= self.account_count, "no such account"


@external
def transfer(receiver: address, amount: uint256) -> bool:
    self.balanceOf[msg.sender] -= amount
    self.balanceOf[receiver] += amount
    log Transfer(sender=msg.sender, receiver=receiver, amount=amount)
    return True


@external
def open_account() -> uint256:
    return self._open(msg.sender)


@external
def deposit_cash(account: uint256, amount: uint256):
    """@notice Move the sender's USD into an account, anyone's."""
    self._check_account(account)
    self._burn(msg.sender, amount)
    self._set_cash(account, self.accounts[account].cash + self._int(amount))


@external
def withdraw_cash(account: uint256, amount: uint256):
    assert msg.sender == self.accounts[account].owner, "account owner only"
    self._set_cash(account, self.accounts[account].cash - self._int(amount))
    self._check_initial_margin(account)
    self._mint(msg.sender, amount)


@external
def trade(account: uint256, market: uint256, size_delta: int256):
    """@notice Trade at the stored price; funding and the PnL of what is closed become cash."""
    assert msg.sender == self.accounts[account].owner, "account owner only"
    assert market < len(self.markets), "no such market"
    assert size_delta != 0, "nothing to trade"
    self._accrue(market)
    price: uint256 = self.feeds[self.markets[market].feed].price
    index: int256 = self.markets[market].index_last
    position: Position = self.accounts[account].positions[market]
    size: int256 = position.size + size_delta
    cash: int256 = self.accounts[account].cash
    cash -= self._mul(position.size, index - position.funding_index)
    entry: uint256 = price
    if position.size != 0:
        if (position.size > 0) == (size_delta > 0):
            # Adding: the average entry, so that unrealised PnL stays as it is
            cost: uint256 = self._magnitude(position.size) * position.entry_price
            cost += self._magnitude(size_delta) * price
            entry = cost // self._magnitude(size)
        else:
            # Reducing keeps the entry; crossing zero closes it all and opens the rest at the price
            crossed: bool = self._magnitude(size_delta) > self._magnitude(position.size)
            closed: int256 = position.size if crossed else -size_delta
            cash += self._mul(closed, self._int(price) - self._int(position.entry_price))
            if not crossed:
                entry = position.entry_price
    after: Position = empty(Position)
    if size != 0:
        after = Position(size=size, entry_price=entry, funding_index=index)
    self._set_position(account, market, after)
    self._set_cash(account, cash)
    self._check_initial_margin(account)


# --- prices and liquidation -----------------------------------------------------------------------


@external
@payable
def update_prices(updates: DynArray[PriceUpdate, MAX_UPDATES]):
    """
    @notice Store signed prices; one that is not newer than the stored one is ignored.
    @dev Age is judged where a price is used, not here. Funding accrues at the old price first.
    """
    self._check_fee(msg.value, len(updates))
    self._apply(updates)


@external
def liquidate(account: uint256) -> uint256:
    """
    @notice Close all or half of an under-margined account; the caller is paid in USD.
    @return The reward.
    """
    return self._liquidate(account, msg.sender)


@external
@payable
def liquidate_with_prices(
    account: uint256, updates: DynArray[PriceUpdate, MAX_UPDATES]
) -> uint256:
    self._check_fee(msg.value, len(updates))
    self._apply(updates)
    return self._liquidate(account, msg.sender)


@external
@payable
def liquidate_many(
    ids: DynArray[uint256, MAX_BATCH], updates: DynArray[PriceUpdate, MAX_UPDATES]
) -> DynArray[uint256, MAX_BATCH]:
    """
    @notice As liquidate_with_prices for several accounts, all of them or none.
    @return The reward of each.
    """
    self._check_fee(msg.value, len(updates))
    self._apply(updates)
    rewards: DynArray[uint256, MAX_BATCH] = []
    for account: uint256 in ids:
        rewards.append(self._liquidate(account, msg.sender))
    return rewards


@external
def preview_liquidatable(
    ids: DynArray[uint256, MAX_IDS], updates: DynArray[PriceUpdate, MAX_UPDATES]
) -> DynArray[bool, MAX_IDS]:
    """
    @notice For eth_call only: would these accounts be liquidatable after these updates?
    @dev No transaction has the zero address as its sender, so the free updates never stick.
    """
    assert msg.sender == empty(address), "eth_call only"
    self._apply(updates)
    answers: DynArray[bool, MAX_IDS] = []
    for account: uint256 in ids:
        margin: Margin = self._margin(account)
        answers.append(margin.fresh and self._is_under(margin))
    return answers


# --- views ----------------------------------------------------------------------------------------


@external
@view
def margin_of(account: uint256) -> (int256, int256, uint256, uint256, uint256):
    """
    @notice At the stored prices whatever their age, with the funding index of this block.
    @return equity, net value (collateral without haircut), maintenance, reserve, notional
    """
    margin: Margin = self._margin(account)
    return (
        margin.equity, margin.net_value, margin.maintenance, margin.reserve, margin.notional
    )


@external
@view
def is_liquidatable(account: uint256) -> bool:
    """@notice False as well when a price it depends on is too old to act on."""
    margin: Margin = self._margin(account)
    return margin.fresh and self._is_under(margin)


@external
@view
def market_view() -> MarketView:
    return MarketView(
        max_price_age_s=self.max_price_age_s,
        update_fee_wei=self.update_fee_wei,
        whole_below=self.whole_below,
        reserve=self.reserve,
        account_count=self.account_count,
        feeds=self.feeds,
        markets=self.markets,
        assets=self.assets,
    )


@external
@view
def account_views(ids: DynArray[uint256, MAX_IDS]) -> DynArray[AccountView, MAX_IDS]:
    views: DynArray[AccountView, MAX_IDS] = []
    for account: uint256 in ids:
        views.append(
            AccountView(
                id=account,
                owner=self.accounts[account].owner,
                cash=self.accounts[account].cash,
                collateral=self.accounts[account].collateral,
                positions=self.accounts[account].positions,
            )
        )
    return views
