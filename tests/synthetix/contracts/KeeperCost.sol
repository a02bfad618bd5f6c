// SPDX-License-Identifier: MIT
pragma solidity >=0.8.11 <0.9.0;

import "@synthetixio/oracle-manager/contracts/interfaces/external/IExternalNode.sol";

/// The keeper-cost node: what a keeper's transaction costs, as the protocol believes. It changes
/// without any event, as the real one does with the gas price.
contract KeeperCost is IExternalNode {
    uint256[3] public costs; // settle, flag per updated feed, liquidate: USD, 18 decimals

    function set(uint256 settle, uint256 flag, uint256 liquidate) external {
        costs = [settle, flag, liquidate];
    }

    /// values[0] = number of updated feeds, values[1] = execution kind
    function process(
        NodeOutput.Data[] memory,
        bytes memory,
        bytes32[] memory,
        bytes32[] memory values
    ) external view returns (NodeOutput.Data memory output) {
        uint256 kind = uint256(values[1]);
        output.price = int256(kind == 1 ? costs[1] * uint256(values[0]) : costs[kind]);
    }

    function isValid(NodeDefinition.Data memory) external pure returns (bool) {
        return true;
    }

    function supportsInterface(bytes4) external pure returns (bool) {
        return true;
    }
}
