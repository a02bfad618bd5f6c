// SPDX-License-Identifier: MIT
pragma solidity >=0.8.11 <0.9.0;

/// Says no, as on a live chain: the staleness breaker switches itself off on a fork.
library ForkDetector {
    function isDevFork() internal pure returns (bool) {
        return false;
    }
}
