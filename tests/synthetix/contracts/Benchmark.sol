// SPDX-License-Identifier: MIT
pragma solidity >=0.8.11 <0.9.0;

/// The price an order settles at: what was set last for the feed, whatever time is asked for.
contract Benchmark {
    mapping(bytes32 => int256) public prices;

    function set(bytes32 feed, int256 price) external {
        prices[feed] = price;
    }

    function getBenchmarkPrice(bytes32 feed, uint64) external view returns (int256) {
        return prices[feed];
    }
}
