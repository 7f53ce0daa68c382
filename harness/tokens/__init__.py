"""Which tokens could a model do without, and what would that save?"""
