// SPDX-License-Identifier: MIT
pragma solidity >=0.8.11 <0.9.0;

/// Many calls in one transaction, each with the caller's address appended (ERC-2771), with the
/// call that TrustedMulticallForwarder offers for it. A required call that fails takes all with
/// it, with its own reason.
contract Forwarder {
    struct Call3Value {
        address target;
        bool requireSuccess;
        uint256 value;
        bytes callData;
    }

    struct Result {
        bool success;
        bytes returnData;
    }

    error ERC2771ForwarderMismatchedValue(uint256 requestedValue, uint256 msgValue);

    function aggregate3Value(
        Call3Value[] calldata calls
    ) external payable returns (Result[] memory results) {
        uint256 total;
        results = new Result[](calls.length);
        for (uint256 i = 0; i < calls.length; i++) {
            Call3Value calldata made = calls[i];
            total += made.value;
            (bool success, bytes memory answer) = made.target.call{value: made.value}(
                abi.encodePacked(made.callData, msg.sender)
            );
            if (made.requireSuccess && !success) {
                assembly {
                    revert(add(answer, 32), mload(answer))
                }
            }
            results[i] = Result(success, answer);
        }
        if (total != msg.value) revert ERC2771ForwarderMismatchedValue(total, msg.value);
    }
}
