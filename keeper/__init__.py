"""A liquidation keeper for perpetual-futures venues on EVM chains."""
