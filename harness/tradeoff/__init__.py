"""What does the cost buy? Points from papers, counts, records and the user's file."""
