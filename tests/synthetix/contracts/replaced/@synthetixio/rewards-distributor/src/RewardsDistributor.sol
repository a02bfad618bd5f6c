// SPDX-License-Identifier: MIT
pragma solidity >=0.8.11 <0.9.0;

interface RewardsDistributor {
    function poolId() external view returns (uint128);

    function token() external view returns (address);

    function distributeRewards(
        uint128 pool,
        address collateral,
        uint256 amount,
        uint64 start,
        uint32 duration
    ) external;
}
