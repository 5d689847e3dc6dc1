"""Write a sweep in the formats of other tools. Each format is a module of this package; `FORMATS` lists them.

Unlike the report, which redacts responses, these files hold them whole.
"""
