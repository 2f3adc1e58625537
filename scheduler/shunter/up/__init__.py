"""`shunter up`: the whole system on one machine, every process owned and restarted."""
