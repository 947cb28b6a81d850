"""Campaigns: statements of the theory checked on many random instances.

``config`` reads one, ``checks`` computes its parts, ``run`` keeps the rows in a folder, ``claims`` and ``figures`` say
what they show.
"""
