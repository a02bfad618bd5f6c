"""A liquidation keeper for perpetual-futures venues on EVM chains."""

__version__ = "0.1.0"
