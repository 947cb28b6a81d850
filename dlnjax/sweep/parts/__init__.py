"""What a cell is made of: optimizers, starts, problems, activations, losses and shapes as tables of named functions.

``words`` lists them and says which agree (no JAX); ``own`` names the functions that a user gives; ``layers``,
``problems`` and ``forecast`` turn a cell into arrays, a training problem and a predicted rate; ``general`` is the
path that a shard takes which asks for any of it. Cells of plain linear networks never come here.
"""
