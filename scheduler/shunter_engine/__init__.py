"""`shunter engine`: an OpenAI and token-level server in front of a simulated or a NumPy engine."""
