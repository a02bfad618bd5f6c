# pragma version ~=0.4.3
# A Chainlink aggregator whose answers anybody may give; eight decimals.

decimals: public(uint8)
round: uint80
answer: int256
updated_s: uint256


@deploy
def __init__(answer: int256):
    self.decimals = 8
    self._set(answer)


@internal
def _set(answer: int256):
    self.round += 1
    self.answer = answer
    self.updated_s = block.timestamp


@external
def set(answer: int256):
    self._set(answer)


@view
@external
def latestRoundData() -> (uint80, int256, uint256, uint256, uint80):
    return self.round, self.answer, self.updated_s, self.updated_s, self.round


@view
@external
def getRoundData(round: uint80) -> (uint80, int256, uint256, uint256, uint80):
    return self.round, self.answer, self.updated_s, self.updated_s, self.round
