"""How several losses become one update: one method a file."""
