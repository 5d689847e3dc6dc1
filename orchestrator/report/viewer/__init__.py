"""`view`: a local web page over all studies. It only reads."""
