"""Campaigns: statements of the theory checked on many random instances."""
