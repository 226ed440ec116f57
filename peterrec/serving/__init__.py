"""One encoder, many tasks: the in-process server, its queue, and its HTTP face."""
