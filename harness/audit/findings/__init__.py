"""Sentences made from the figures: where a paper's tables contradict themselves, its text or each other."""
