// SPDX-License-Identifier: MIT
pragma solidity >=0.8.11 <0.9.0;

/// The USD token and the market manager in one: as much of the core system as the market calls.
/// Credit is without limit, so insolvency of the pool does not occur.
contract CoreStub {
    event Transfer(address indexed from, address indexed to, uint256 value);
    event MarketRegistered(
        address indexed market,
        uint128 indexed marketId,
        address indexed sender
    );

    string public constant name = "USD for tests";
    string public constant symbol = "tUSD";
    uint8 public constant decimals = 18;
    uint256 public totalSupply;
    mapping(address => uint256) public balanceOf;
    address public getOracleManager;
    address public market;
    int256 public credit;

    error NotTheMarket(address sender);

    constructor(address oracleManager) {
        getOracleManager = oracleManager;
    }

    modifier onlyMarket() {
        if (msg.sender != market) revert NotTheMarket(msg.sender);
        _;
    }

    function mint(address to, uint256 value) external {
        balanceOf[to] += value;
        totalSupply += value;
        emit Transfer(address(0), to, value);
    }

    function transfer(address to, uint256 value) external returns (bool) {
        balanceOf[msg.sender] -= value;
        balanceOf[to] += value;
        emit Transfer(msg.sender, to, value);
        return true;
    }

    function getUsdToken() external view returns (address) {
        return address(this);
    }

    function getAssociatedSystem(bytes32) external view returns (address, bytes32) {
        return (address(this), "");
    }

    function registerMarket(address newMarket) external returns (uint128) {
        require(market == address(0), "one market only");
        market = newMarket;
        emit MarketRegistered(newMarket, 1, msg.sender);
        return 1;
    }

    /// Taken from the trader without an allowance: the market asks for its own sender only.
    function depositMarketUsd(
        uint128,
        address from,
        uint256 value
    ) external onlyMarket returns (uint256) {
        balanceOf[from] -= value;
        totalSupply -= value;
        credit += int256(value);
        emit Transfer(from, address(0), value);
        return 0;
    }

    function withdrawMarketUsd(
        uint128,
        address to,
        uint256 value
    ) external onlyMarket returns (uint256) {
        balanceOf[to] += value;
        totalSupply += value;
        credit -= int256(value);
        emit Transfer(address(0), to, value);
        return 0;
    }

    function getWithdrawableMarketUsd(uint128) external pure returns (uint256) {
        return 10 ** 26;
    }
}
