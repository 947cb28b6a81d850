"""Runs a sweep: shards go to processes, results to the folder, news to whoever listens.

``run`` is the front. ``scheduler`` says which shard starts when and takes in what has ended; ``places`` are where
shards run and who writes their files; ``task`` is one shard, computed and kept; ``retry`` judges failures;
``outcome`` does the accounts; ``metadata`` is what the manifest says of the results. ``executors``, ``launch`` and
``progress`` stand alone.
"""
