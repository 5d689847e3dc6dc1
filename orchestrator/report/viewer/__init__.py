"""The live viewer (`view`): a local web page over all studies. It reads studies and never writes to one."""
