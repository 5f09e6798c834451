"""Measuring trackers: metrics and one-pass runs."""
