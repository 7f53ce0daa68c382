"""Do other counters agree, and if not, why?"""
