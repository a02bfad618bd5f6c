// SPDX-License-Identifier: MIT
pragma solidity >=0.8.11 <0.9.0;

/// The sender of a call, or whoever the trusted forwarder says it is: the last 20 bytes.
library ERC2771Context {
    address internal constant TRUSTED_FORWARDER = 0xE2C5658cC5C448B48141168f3e475dF8f65A1e3e;

    function _msgSender() internal view returns (address) {
        if (msg.sender == TRUSTED_FORWARDER && msg.data.length >= 20) {
            return address(bytes20(msg.data[msg.data.length - 20:]));
        }
        return msg.sender;
    }

    function _msgData() internal view returns (bytes calldata) {
        if (msg.sender == TRUSTED_FORWARDER && msg.data.length >= 20) {
            return msg.data[:msg.data.length - 20];
        }
        return msg.data;
    }

    function isTrustedForwarder(address forwarder) internal pure returns (bool) {
        return forwarder == TRUSTED_FORWARDER;
    }

    function trustedForwarder() internal pure returns (address) {
        return TRUSTED_FORWARDER;
    }
}
