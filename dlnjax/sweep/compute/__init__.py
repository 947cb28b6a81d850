"""From a shard to its rows: instances are drawn, programs compiled, cells trained and measured."""
