// SPDX-License-Identifier: MIT
pragma solidity >=0.8.11 <0.9.0;

/// Many errors travel in one, also when it is just one of many calls that failed.
library RevertUtil {
    error Errors(bytes[] errors);
    error EmptyRevertReason();

    function revertWithReason(bytes memory reason) internal pure {
        if (reason.length == 0) revert EmptyRevertReason();
        assembly {
            revert(add(reason, 32), mload(reason))
        }
    }

    function revertIfError(bytes memory reason) internal pure {
        if (reason.length > 0) {
            revertWithReason(reason);
        }
    }

    function revertManyIfError(bytes[] memory reasons) internal pure {
        uint256 count;
        for (uint256 i = 0; i < reasons.length; i++) {
            if (reasons[i].length > 0) count++;
        }
        if (count == 0) return;
        bytes[] memory found = new bytes[](count);
        count = 0;
        for (uint256 i = 0; i < reasons.length; i++) {
            if (reasons[i].length > 0) found[count++] = reasons[i];
        }
        revert Errors(found);
    }
}
