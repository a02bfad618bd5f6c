// SPDX-License-Identifier: MIT
pragma solidity >=0.8.11 <0.9.0;

import {ERC2771Context} from "@synthetixio/core-contracts/contracts/utils/ERC2771Context.sol";
import {Account} from "@synthetixio/main/contracts/storage/Account.sol";

/// Accounts without the NFT that the core system makes of them.
contract AccountModule {
    error AccountTaken(uint128 accountId);
    event AccountCreated(uint128 indexed accountId, address indexed owner);

    function createAccount(uint128 accountId) external {
        Account.Data storage account = Account.load(accountId);
        if (account.owner != address(0)) revert AccountTaken(accountId);
        account.owner = ERC2771Context._msgSender();
        emit AccountCreated(accountId, account.owner);
    }

    function getAccountOwner(uint128 accountId) external view returns (address) {
        return Account.load(accountId).owner;
    }
}
