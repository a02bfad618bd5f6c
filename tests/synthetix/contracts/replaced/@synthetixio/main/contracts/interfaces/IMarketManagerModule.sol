// SPDX-License-Identifier: MIT
pragma solidity >=0.8.11 <0.9.0;

import "@synthetixio/core-contracts/contracts/interfaces/IERC20.sol";
import "@synthetixio/oracle-manager/contracts/interfaces/INodeModule.sol";

interface IMarketManagerModule {
    function registerMarket(address market) external returns (uint128);

    function depositMarketUsd(uint128 id, address from, uint256 amount) external returns (uint256);

    function withdrawMarketUsd(uint128 id, address to, uint256 amount) external returns (uint256);

    function getWithdrawableMarketUsd(uint128 id) external view returns (uint256);

    function getUsdToken() external view returns (IERC20);

    function getOracleManager() external view returns (INodeModule);
}
