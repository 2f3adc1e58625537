"""Simulated engines, workloads and reports."""
