"""Everything a person looks at: figures, terminal, the HTML page, the live viewer."""
