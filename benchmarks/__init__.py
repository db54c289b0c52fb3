"""Side-by-side measurements: ``python -m benchmarks`` prints a table of ratios and writes them as JSON."""
