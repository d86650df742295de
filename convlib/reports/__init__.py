"""Runs: notebooks executed for each segment and period, written as report pages."""
