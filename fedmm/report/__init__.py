"""Studies and comparisons as text, figures and pages."""
