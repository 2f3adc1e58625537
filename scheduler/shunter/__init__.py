"""The command line, and `shunter up`."""
