"""What is told about finished runs: tables, files for papers, a page to look at failures with, and comparisons."""
