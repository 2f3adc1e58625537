"""From measured times to figures, tables and plots: of real endpoints and of simulated runs."""
