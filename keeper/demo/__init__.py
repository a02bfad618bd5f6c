"""The embedded world of `keeper demo`: broker, local chain, market, price path."""
