// SPDX-License-Identifier: MIT
pragma solidity >=0.8.11 <0.9.0;

import {ERC2771Context} from "@synthetixio/core-contracts/contracts/utils/ERC2771Context.sol";

/// Who owns an account; an owner may do everything and nobody else anything.
library Account {
    error PermissionDenied(uint128 accountId, bytes32 permission, address target);
    error AccountNotFound(uint128 accountId);

    struct Data {
        address owner;
    }

    function load(uint128 id) internal pure returns (Data storage account) {
        bytes32 slot = keccak256(abi.encode("keeper-tests.account", id));
        assembly {
            account.slot := slot
        }
    }

    function exists(uint128 id) internal view returns (Data storage account) {
        account = load(id);
        if (account.owner == address(0)) revert AccountNotFound(id);
    }

    function loadAccountAndValidatePermission(
        uint128 id,
        bytes32 permission
    ) internal view returns (Data storage account) {
        account = exists(id);
        address sender = ERC2771Context._msgSender();
        if (account.owner != sender) revert PermissionDenied(id, permission, sender);
    }
}
