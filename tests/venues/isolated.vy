# pragma version 0.4.3
"""
@title The market that keeper/venues/_template.py describes, as small as it gets
@dev Anyone may set anything: it exists to prove that the template works.
     Sizes have 18 decimals, prices 8, money (margin, rewards) 6.
"""

SCALE: constant(int256) = 10**20  # size × price → money

struct Market:
    price: uint256
    maintenance_bps: uint256
    reward_bps: uint256

struct Position:
    size: int256
    entry_price: uint256
    margin: int256

event PositionChanged:
    market: indexed(address)
    trader: indexed(address)

event PositionLiquidated:
    market: indexed(address)
    trader: indexed(address)
    liquidator: indexed(address)
    reward: uint256

event MarketChanged:
    market: indexed(address)

event PausedSet:
    paused: bool

markets: public(HashMap[address, Market])
positions: public(HashMap[address, HashMap[address, Position]])
paused: public(bool)
balanceOf: public(HashMap[address, uint256])


@external
def set_market(market: address, terms: Market):
    self.markets[market] = terms
    log MarketChanged(market=market)


@external
def set_price(market: address, price: uint256):
    self.markets[market].price = price  # as an oracle does: nothing is logged here


@external
def set_position(market: address, trader: address, position: Position):
    self.positions[market][trader] = position
    log PositionChanged(market=market, trader=trader)


@external
def set_paused(paused: bool):
    self.paused = paused
    log PausedSet(paused=paused)


@external
def liquidate(market: address, trader: address):
    terms: Market = self.markets[market]
    position: Position = self.positions[market][trader]
    assert not self.paused, "paused"
    assert terms.price != 0, "no price"
    price: int256 = convert(terms.price, int256)
    notional: int256 = abs(position.size) * price // SCALE
    gained: int256 = position.size * (price - convert(position.entry_price, int256)) // SCALE
    required: int256 = notional * convert(terms.maintenance_bps, int256) // 10_000
    assert position.size != 0 and position.margin + gained < required, "healthy"
    reward: uint256 = convert(notional, uint256) * terms.reward_bps // 10_000
    self.positions[market][trader] = empty(Position)
    self.balanceOf[msg.sender] += reward
    log PositionLiquidated(market=market, trader=trader, liquidator=msg.sender, reward=reward)
