"""Price sources, one file each, and the board that gates them."""
