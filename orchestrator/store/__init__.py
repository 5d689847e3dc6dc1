"""The folder of a study: the only code that reads or writes what is stored."""
