"""Adaptive landscapes: which nodes of a line or plane are measured, what is inferred at the others, with what error.

Everything here is a pure function of a line's or plane's shape and of the verdict counts at its nodes. The public
functions are in `rule` (which nodes), `inference` (values at the others) and `errors` (errors of VISAGE and the other
numbers). docs/adaptive.md defines the rule and says what it guarantees.
"""
