"""Present results to users: figures, terminal output, the HTML page, the live viewer."""
