"""What a sweep is asked to do: the options, the files and calls that set them, and the cells they span.

Nothing here imports JAX or pyarrow, so that a wrong configuration is reported in a fraction of a second.
"""
