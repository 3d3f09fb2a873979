"""What is found by the name of the distribution: installed as the package `echo_markets`.

Owns the entry points, which must work where `import core` finds another project's package. Imports
nothing of the stack before it is known to be the stack.
"""
