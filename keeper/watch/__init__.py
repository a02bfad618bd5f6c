"""What there is to act on: each venue's accounts, kept as the chain and the prices have them."""
