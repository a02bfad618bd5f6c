"""The margin engine against brute force."""
