"""The live viewer (`view`): a local web page over all studies. The only thing it writes is verdicts of people."""
