"""Measures the product beside other ways to serve the same model: `make bench`, or `make bench-quick`."""
