"""The command line: parse arguments, run one verb, print its result."""
