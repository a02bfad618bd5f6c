# pragma version 0.4.3
# A Chainlink feed as the keeper sees one, proxy and aggregator in one; for tests only.

interface Feed:
    def latestRoundData() -> (uint80, int256, uint256, uint256, uint80): view

event AnswerUpdated:
    current: indexed(int256)
    roundId: indexed(uint256)
    updatedAt: uint256

decimals: public(uint8)
aggregator: public(address)
answer: int256
round: uint80
updated_at: uint256
started_at: uint256

@deploy
def __init__(decimals_: uint8):
    self.decimals = decimals_
    self.aggregator = self

@external
def point_to(aggregator_: address):
    self.aggregator = aggregator_

@external
def set_answer(answer_: int256, at: uint256):
    self.round += 1
    self.answer = answer_
    self.updated_at = at
    self.started_at = at
    log AnswerUpdated(current=answer_, roundId=convert(self.round, uint256), updatedAt=at)

@external
@view
def latestRoundData() -> (uint80, int256, uint256, uint256, uint80):
    if self.aggregator != self:
        return staticcall Feed(self.aggregator).latestRoundData()
    return self.round, self.answer, self.started_at, self.updated_at, self.round
