# pragma version 0.4.3
"""
@title The market that keeper/venues/_template.py describes, as small as it gets
@dev Anyone may set anything: it exists to prove that the template works.
"""

WAD: constant(int256) = 10**18

struct Terms:
    price: uint256
    maintenance_rate: uint256
    reward: uint256
    expires_s: uint256

struct Position:
    size: int256
    entry_price: uint256
    margin: int256

event PositionChanged:
    id: indexed(uint256)

event Liquidated:
    id: indexed(uint256)
    liquidator: indexed(address)
    reward: uint256

event TermsChanged:
    pass

terms: public(Terms)
position: public(HashMap[uint256, Position])
balanceOf: public(HashMap[address, uint256])


@external
def set_terms(terms: Terms):
    self.terms = terms
    log TermsChanged()


@external
def set_position(id: uint256, position: Position):
    self.position[id] = position
    log PositionChanged(id=id)


@external
def liquidate(id: uint256) -> uint256:
    terms: Terms = self.terms
    position: Position = self.position[id]
    assert terms.price != 0 and block.timestamp <= terms.expires_s, "price expired"
    price: int256 = convert(terms.price, int256)
    notional: int256 = abs(position.size) * price // WAD
    gained: int256 = position.size * (price - convert(position.entry_price, int256)) // WAD
    maintenance: int256 = notional * convert(terms.maintenance_rate, int256) // WAD
    required: int256 = maintenance + convert(terms.reward, int256)
    assert position.size != 0 and position.margin + gained < required, "healthy"
    self.position[id] = Position(
        size=0,
        entry_price=0,
        margin=position.margin + gained - convert(terms.reward, int256),
    )
    self.balanceOf[msg.sender] += terms.reward
    log Liquidated(id=id, liquidator=msg.sender, reward=terms.reward)
    return terms.reward
