"""Features: the fields of an impression as vectors."""
