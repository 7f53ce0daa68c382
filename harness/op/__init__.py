"""How fast is the op, and which implementation runs?"""
