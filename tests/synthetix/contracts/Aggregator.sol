// SPDX-License-Identifier: MIT
pragma solidity >=0.8.11 <0.9.0;

/// A price pushed on chain, read as a Chainlink feed.
contract Aggregator {
    event AnswerUpdated(int256 indexed current, uint256 indexed roundId, uint256 updatedAt);

    uint8 public constant decimals = 18;
    uint80 private _round;
    int256 private _answer;
    uint256 private _updatedAt;

    constructor(int256 answer) {
        setAnswer(answer);
    }

    function setAnswer(int256 answer) public {
        _round += 1;
        _answer = answer;
        _updatedAt = block.timestamp;
        emit AnswerUpdated(answer, _round, block.timestamp);
    }

    function latestAnswer() external view returns (int256) {
        return _answer;
    }

    function latestRoundData() public view returns (uint80, int256, uint256, uint256, uint80) {
        return (_round, _answer, _updatedAt, _updatedAt, _round);
    }

    function getRoundData(
        uint80
    ) external view returns (uint80, int256, uint256, uint256, uint80) {
        return latestRoundData();
    }
}
