"""Decides where and when each request runs, and goes on deciding while it runs."""
