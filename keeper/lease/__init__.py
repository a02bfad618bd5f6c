"""The lease: who of several keepers leads (``leadership``), and where that is written."""
