"""Runs a sweep: schedules shards over executors, keeps their results, and reports progress."""
