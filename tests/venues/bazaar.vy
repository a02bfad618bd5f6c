# pragma version 0.4.3
"""
@title A market of the kind the recipe is for, that differs from the template wherever it can
@dev Other names, other orders, 18 decimals throughout, rates of 18 decimals, a bounty that comes
     out of the margin and is asked for on top of it, and keepers that have to be let in.
"""

ONE: constant(int256) = 10**18

struct Terms:
    rate: uint256
    bounty: uint256
    mark: uint256

struct Trade:
    deposit: uint256
    open_price: uint256
    amount: int256

event Traded:
    account: indexed(address)
    amm: indexed(address)
    amount: int256

event Closed:
    account: indexed(address)
    amm: indexed(address)
    bounty: uint256
    keeper: address

event TermsSet:
    amm: address

termsOf: public(HashMap[address, Terms])
tradeOf: public(HashMap[address, HashMap[address, Trade]])
isShut: public(bool)
balanceOf: public(HashMap[address, uint256])


@external
def setTerms(amm: address, terms: Terms):
    self.termsOf[amm] = terms
    log TermsSet(amm=amm)


@external
def setMark(amm: address, mark: uint256):
    self.termsOf[amm].mark = mark


@external
def setTrade(account: address, amm: address, trade: Trade):
    self.tradeOf[account][amm] = trade
    log Traded(account=account, amm=amm, amount=trade.amount)


@external
def setShut(shut: bool):
    self.isShut = shut


@external
@view
def mayLiquidate(keeper: address) -> bool:
    return not self.isShut


@external
def liquidate(account: address, amm: address) -> uint256:
    terms: Terms = self.termsOf[amm]
    trade: Trade = self.tradeOf[account][amm]
    assert not self.isShut, "NOT_KEEPER"
    assert trade.amount != 0 and terms.mark != 0, "SOLVENT"
    mark: int256 = convert(terms.mark, int256)
    worth: int256 = abs(trade.amount) * mark // ONE
    profit: int256 = trade.amount * (mark - convert(trade.open_price, int256)) // ONE
    needed: int256 = worth * convert(terms.rate, int256) // ONE + convert(terms.bounty, int256)
    assert convert(trade.deposit, int256) + profit < needed, "SOLVENT"
    self.tradeOf[account][amm] = empty(Trade)
    self.balanceOf[msg.sender] += terms.bounty
    log Closed(account=account, amm=amm, bounty=terms.bounty, keeper=msg.sender)
    return terms.bounty
