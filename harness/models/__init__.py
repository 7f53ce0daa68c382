"""What a user can name and how it is built."""
