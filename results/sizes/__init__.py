"""How often each image size occurs in a data set."""
