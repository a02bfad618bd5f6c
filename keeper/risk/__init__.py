"""What a risk analyst asks: accounts at other prices, where they sink, how near they are."""
