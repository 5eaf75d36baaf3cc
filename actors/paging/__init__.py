"""Pages of the key-value cache: their names, the table that an engine keeps of them, and what a page is."""
