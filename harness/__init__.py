"""From specs to records: counting, cross-checking, sizes, published figures."""
