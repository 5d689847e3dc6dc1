"""The command line: parse it, run one verb, print."""
