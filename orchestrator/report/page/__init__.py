"""report.html: one file per sweep that opens offline."""
