"""Results of studies as small CSV files, and the tables that the documents show from them."""
