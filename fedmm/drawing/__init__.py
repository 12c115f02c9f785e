"""Figures as panels and pages as one HTML file, for every report."""
