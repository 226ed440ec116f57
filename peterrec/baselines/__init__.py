"""What a user would pick instead: the models that every result is printed beside."""
